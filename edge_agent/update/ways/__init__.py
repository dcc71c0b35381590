"""The ways by which bytes come from the operator to the device, all under the same checks."""
