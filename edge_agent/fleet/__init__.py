"""The operator's side: publish models, collect records, look at devices, over any MQTT broker."""
