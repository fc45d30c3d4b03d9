// Package remotewrite carries samples to a Prometheus-compatible store and
// loses none that the store could still take.
//
// Gathered metric families are encoded once as remote-write 1.0 bodies
// ([Encoder]), put into a spool on disk ([Spool]) and sent from there by one
// sender, strictly oldest first ([Writer]). A body is never encoded twice and
// never overtaken, so what arrives is in order per series, and a body repeated
// after a lost acknowledgement repeats the same values, which stores accept.
//
// What the package gives up it counts, with a reason: samples older than the
// store would take, samples beyond the space allowed on disk, samples that the
// disk or the store refused. It refuses to block whoever hands it samples, to
// send a younger body before an older one, and to grow without bound. It holds
// no lock on the machine's fate: bodies are written through to the disk once
// per snapshot, so that a node that crashes keeps what it had seen.
package remotewrite
