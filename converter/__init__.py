"""Turns a trained model into a verified bundle. Runs on a workstation, never on a device."""
