"""The agent against what people use, over MQTT on one core."""
