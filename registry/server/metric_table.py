"""What the registry counts and measures for `/metrics`. Labels are routes, states and reasons, and of names only those
of models and versions that devices serve, within bounds.

`fleet_` figures are sums over all devices, from their health reports. They only rise while the registry runs: restarts
of agents, repeated and late reports change nothing. A report says which version answered; of a switch in the middle of
a report's window all is the newer version's.
"""

from __future__ import annotations

from registry.contracts.counters import Metric, table

_SERVED = ("model", "version", "target")

REGISTRY_METRICS = table(
    Metric("http_requests", "counter", "requests", "Requests answered.", ("method", "route", "status")),
    Metric(
        "http_request_seconds", "histogram", "seconds", "From request to the answer's last byte.", ("method", "route")
    ),
    Metric(
        "registry_info", "gauge", "1", "The version of the registry, and its setting `instance`.", ("version", "name")
    ),
    Metric("connections", "gauge", "connections", "Open connections over HTTP."),
    Metric(
        "connections_refused",
        "counter",
        "connections",
        "Connections that had no place. `own`: their address had all of its part. `all`: all were taken.",
        ("reason",),
    ),
    Metric(
        "connections_given_up",
        "counter",
        "connections",
        "Connections without a request that were closed, so that another one had a place.",
    ),
    Metric(
        "share_refusals",
        "counter",
        "refusals",
        "What was refused to a caller that had all that one caller may have, so that the others get theirs: "
        "`connections` of an address; `requests`, `bodies`, `uploads`, `streams`, `reports` over HTTP; `messages` "
        "of a device over MQTT, which were dropped.",
        ("what",),
    ),
    Metric("blob_bytes_sent", "counter", "bytes", "Bytes of blobs sent."),
    Metric("blob_bytes_received", "counter", "bytes", "Bytes of blobs received."),
    Metric("blobs", "gauge", "blobs", "Blobs that are stored."),
    Metric("blob_bytes", "gauge", "bytes", "Size of the blobs that are stored."),
    Metric("blob_disk_free_bytes", "gauge", "bytes", "Free on the disk of the blobs; absent for a store without one."),
    Metric(
        "blobs_damaged",
        "gauge",
        "blobs",
        "Blobs that a version or a validation set needs and whose copy is lost or wrong.",
    ),
    Metric("blobs_found_damaged", "counter", "blobs", "Blobs whose copy was found lost or wrong."),
    Metric("blob_bytes_verified", "counter", "bytes", "Bytes of blobs that were read in the background."),
    Metric("database_conflicts", "counter", "writes", "Writes that another transaction conflicted with; done again."),
    Metric("database_refusals", "counter", "operations", "Reads and writes that the database could not do.", ("code",)),
    Metric("jobs_failed", "counter", "runs", "Runs of a periodic job that failed; the next one tries again.", ("job",)),
    Metric("rollouts", "gauge", "rollouts", "Rollouts by state.", ("state",)),
    Metric("rollout_devices", "gauge", "devices", "Devices in rollouts that are under way, by state.", ("state",)),
    Metric("devices", "gauge", "devices", "Devices by presence.", ("presence",)),
    Metric("devices_with_two_agents", "gauge", "devices", "Devices whose name two agents run under at the same time."),
    Metric(
        "fleet_devices",
        "gauge",
        "devices",
        "Devices by their connection: `online`, `late`, `http_only`, `silent`, `offline`, `never_seen`.",
        ("connection",),
    ),
    Metric(
        "fleet_devices_serving",
        "gauge",
        "devices",
        "Devices by the worst state of what they should serve: `serving`, `downloading`, `failing` and others.",
        ("state",),
    ),
    Metric("fleet_devices_failing", "gauge", "devices", "Devices by the code with which they fail.", ("code",)),
    Metric(
        "fleet_devices_behind", "gauge", "devices", "Devices with a model of which something else serves than should."
    ),
    Metric(
        "fleet_models",
        "gauge",
        "devices",
        "Devices by what serves of a model: `version` is empty where nothing does; `hardware` is architecture and "
        "target.",
        ("model", "version", "hardware"),
    ),
    Metric(
        "fleet_agents",
        "gauge",
        "devices",
        "Devices by the version of their agent, as far as their births at the broker told this process.",
        ("version",),
    ),
    Metric(
        "fleet_certificate_expiry_timestamp_seconds",
        "gauge",
        "Unix time",
        "When the certificate of a device ends that ends first, by use: `broker_authority`, `broker_client`, "
        "`registry_authority`. Of devices that reported in the last two hours.",
        ("certificate",),
    ),
    Metric(
        "fleet_requests", "counter", "requests", "Requests that devices answered, with a result or an error.", _SERVED
    ),
    Metric("fleet_errors", "counter", "requests", "Requests that devices answered with an error.", (*_SERVED, "code")),
    Metric(
        "fleet_latency_seconds", "histogram", "seconds", "From a request's last byte on a device to its reply.", _SERVED
    ),
    Metric(
        "fleet_run_seconds",
        "histogram",
        "seconds",
        "Of one run in a backend of a device, of one request or more.",
        _SERVED,
    ),
    Metric(
        "device_messages",
        "counter",
        "messages",
        "Messages of registered devices that were stored, by kind, and by how they came: `mqtt` or `http`. How often "
        "devices poll, `http_requests` says.",
        ("kind", "way"),
    ),
    Metric(
        "queue_length",
        "gauge",
        "things",
        "What waits. `messages`: of devices, for the database. `documents`: desired state, for the broker. `jobs`: on "
        "devices, not over. `plans`: rollouts to be planned. `approvals`: plans, for a person. `webhooks`: events that "
        "the slowest webhook has not got. `uploads`: sessions that are open.",
        ("queue",),
    ),
    Metric(
        "queue_oldest_seconds",
        "gauge",
        "seconds",
        "How long the first in a queue has waited; 0: nothing waits. Not of `documents`.",
        ("queue",),
    ),
    Metric("webhooks_disabled", "gauge", "webhooks", "Webhooks that were switched off after too many failures."),
    Metric(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "Unix time",
        "When a certificate ends. `broker`: what the broker shows now. `broker_authority`: the first that ends in "
        "`mqtt.ca_file`. `broker_client`: `mqtt.cert_file`.",
        ("certificate",),
    ),
    Metric(
        "trust_expiry_timestamp_seconds",
        "gauge",
        "Unix time",
        "When the newest signed metadata of a role expire. `root` and `targets` may need keys that are elsewhere; the "
        "registry itself signs the others again in time.",
        ("repository", "role"),
    ),
    Metric("registry_mqtt_connected", "gauge", "1 or 0", "1 when connected and subscribed."),
    Metric("registry_mqtt_queued", "gauge", "messages", "Messages of devices that wait for the database."),
    Metric(
        "registry_mqtt_messages",
        "counter",
        "messages",
        "Messages of devices. `stored`. `unknown`: of a device that is not registered. `repeated`: a health report "
        "that was taken before. `unrecorded`: a result of a model whose results are not kept. `poison`: it cannot be "
        "read or stored, and is dropped. `over_share`: of a device that sends "
        "more than its part, dropped unread. `dropped`: there was no room; at QoS 1 the broker sends it again.",
        ("outcome",),
    ),
    Metric("registry_mqtt_database_retries", "counter", "batches", "Batches that the database could not take at once."),
    Metric(
        "registry_mqtt_documents",
        "counter",
        "documents",
        "Desired documents. `published`. `refused`: by the broker, or not acknowledged in time; tried again. "
        "`too_large`: for the broker; the device is told to ask over HTTP.",
        ("outcome",),
    ),
    Metric(
        "registry_mqtt_refusals",
        "counter",
        "refusals",
        "Publications (PUBACK) and subscriptions (SUBACK) that the broker refused, by its reason.",
        ("reason",),
    ),
    Metric(
        "registry_mqtt_notices", "counter", "notices", "Devices that were asked for their facts, or to ask over HTTP."
    ),
    Metric(
        "registry_mqtt_notices_refused",
        "counter",
        "notices",
        "Such notices that the broker did not take; what called for them does so again.",
    ),
)
