"""The public TUF conformance suite against the device's trust check, every byte over MQTT."""
