package incident

import (
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Facts is everything that is known about the cluster at one moment.
type Facts struct {
	Now   time.Time
	Nodes []NodeFacts
}

// NodeFacts is what is known about one node. The remediator's own findings
// (silence) are among its findings.
type NodeFacts struct {
	fault.NodeStatus
	// Fresh is true when the newest report arrived within timing.fresh_within, on
	// the receiver's clock.
	Fresh bool
	// View is the orchestrator's view, nil when it is not known.
	View *NodeView
}
