"""Who may connect to the broker, and what they may read and write there.

In reading order: :mod:`.roles` says who may do what, :mod:`.book` who was given what and the lists
that brokers read, :mod:`.archive` puts it into one file for an SD card, with the configuration that
:mod:`.rendering` makes; :mod:`.provisioning` is the command. The certificates themselves are made
in :mod:`edge_agent.fleet.trust.authority`.
"""
