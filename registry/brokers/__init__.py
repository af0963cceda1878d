"""Settings of MQTT brokers, made for a fleet: who may do what (`grants`), and that in each broker's own words."""
