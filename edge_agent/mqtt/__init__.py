"""The real link: MQTT 5 and 3.1.1 by paho-mqtt, which nothing else imports."""

from edge_agent.address import Address, parse_url, read_password
from edge_agent.mqtt.link import MqttLink

__all__ = ["Address", "MqttLink", "parse_url", "read_password"]
