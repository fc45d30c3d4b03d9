package remediate

import (
	"cmp"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/ingest"
	"github.com/evenkeel/evenkeel/remediate/policy"
	"github.com/evenkeel/evenkeel/remediate/silence"
)

// knowledge is what the parts know at one moment. It is put together into facts
// by pure functions, so that what an alert or a missing view can do is plain.
type knowledge struct {
	now    time.Time
	timing policy.Timing
	nodes  []ingest.Node // ordered by name
	views  map[string]*incident.NodeView
	// viewed is false when the orchestrator's views are not current.
	viewed bool
	alerts map[string][]string
	// silence holds the remediator's own findings.
	silence map[string][]fault.Finding
	// incident gives the open incident of a node, empty for none.
	incident func(node string) string
}

// sights gives what the watcher of silence needs of every node.
func (k *knowledge) sights() []silence.Sight {
	sights := make([]silence.Sight, 0, len(k.nodes))
	k.each(func(name string, n *ingest.Node, view *incident.NodeView) {
		s := silence.Sight{Node: name, View: view}
		switch {
		case n != nil:
			s.InstanceID, s.BootID, s.Simulated, s.Heard = n.Report.InstanceID, n.Report.BootID, n.Report.Simulated, n.Received
		case view != nil:
			s.InstanceID, s.BootID = view.InstanceID, view.BootID
		}
		sights = append(sights, s)
	})
	return sights
}

// facts gives everything that decisions rest on. Alerts are shown and decide
// nothing: they are no findings.
func (k *knowledge) facts() incident.Facts {
	facts := incident.Facts{Now: k.now, Nodes: make([]incident.NodeFacts, 0, len(k.nodes))}
	k.each(func(name string, n *ingest.Node, view *incident.NodeView) {
		f := incident.NodeFacts{View: view}
		if n != nil {
			f.NodeStatus = n.Status(k.now, k.timing.FreshWithin)
			f.Fresh = k.now.Sub(n.Received) <= k.timing.FreshWithin
		} else {
			f.NodeStatus = unheard(name, view)
		}
		if own := k.silence[name]; len(own) > 0 {
			f.Findings = append(f.Findings, own...)
			f.State = ingest.Sum(f.Findings, f.Coverage, f.Fresh)
		}
		f.Alerts = k.alerts[name]
		f.Isolated = view != nil && view.Isolated
		f.Incident = k.incident(name)
		facts.Nodes = append(facts.Nodes, f)
	})
	return facts
}

// gone gives the nodes that left the cluster: the orchestrator does not list
// them, they have been silent for longer than a replacement may take, and no
// incident is open on them.
func (k *knowledge) gone() []ingest.Node {
	if !k.viewed {
		return nil
	}
	var gone []ingest.Node
	for _, n := range k.nodes {
		_, listed := k.views[n.Report.Node]
		if !listed && k.now.Sub(n.Received) > k.timing.ReturnTimeout && k.incident(n.Report.Node) == "" {
			gone = append(gone, n)
		}
	}
	return gone
}

// each calls do for every node that reported or that the orchestrator lists,
// ordered by name. The view is nil where the orchestrator's is not known.
func (k *knowledge) each(do func(name string, n *ingest.Node, view *incident.NodeView)) {
	var silent []string // listed, never heard
	for name := range k.views {
		if _, reported := slices.BinarySearchFunc(k.nodes, name, func(n ingest.Node, name string) int { return cmp.Compare(n.Report.Node, name) }); !reported {
			silent = append(silent, name)
		}
	}
	slices.Sort(silent)
	for i := range k.nodes {
		n := &k.nodes[i]
		for len(silent) > 0 && silent[0] < n.Report.Node {
			do(silent[0], nil, k.views[silent[0]])
			silent = silent[1:]
		}
		do(n.Report.Node, n, k.views[n.Report.Node])
	}
	for _, name := range silent {
		do(name, nil, k.views[name])
	}
}

// unheard is the status of a node that never reported to this process.
func unheard(name string, view *incident.NodeView) fault.NodeStatus {
	return fault.NodeStatus{
		Node: name, InstanceID: view.InstanceID, BootID: view.BootID, State: fault.Unknown, ReportAgeSeconds: -1,
		Findings: []fault.Finding{}, Coverage: []fault.Coverage{}, Jobs: []fault.Process{},
	}
}
