// Package remotewrite tests the way of a sample from a real agent to a real
// Prometheus: through outages of the receiver, lost acknowledgements and a kill
// -9 of the agent.
package remotewrite
