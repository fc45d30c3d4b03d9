package fault

import "time"

// NodeStatus is what the fleet side holds about one node: the newest report,
// what the orchestrator says, and what is being done. The remediator's
// /v1/nodes serves it; the collector reads it.
type NodeStatus struct {
	Node       string `json:"node"`
	InstanceID string `json:"instance_id,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	// State sums the node up: Bad with any confirmed, unexplained finding of
	// severity error or worse; Unknown without a current report or with a source
	// that should answer and does not; OK otherwise.
	State State `json:"state"`
	// ReportAgeSeconds is how long ago, on the receiver's clock, the newest
	// report arrived; negative if there never was one.
	ReportAgeSeconds float64    `json:"report_age_seconds"`
	Simulated        bool       `json:"simulated,omitempty"`
	Findings         []Finding  `json:"findings"`
	Coverage         []Coverage `json:"coverage"`
	Jobs             []Process  `json:"jobs"`
	// Alerts are the names of firing alerts that carry the node's label.
	Alerts []string `json:"alerts,omitempty"`
	// Isolated is true while the orchestrator gives the node no new work.
	Isolated bool `json:"isolated"`
	// Incident is the id of the open incident on the node, if any.
	Incident string `json:"incident,omitempty"`
}

// NodeList is the body of /v1/nodes.
type NodeList struct {
	Cluster     string       `json:"cluster"`
	GeneratedAt time.Time    `json:"generated_at"`
	Nodes       []NodeStatus `json:"nodes"`
}
