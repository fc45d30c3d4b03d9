// Package ingest holds what the nodes say about themselves: the newest report
// of each, and what became of the findings that it no longer names.
//
// It decides which of two reports is newer, and that absence clears nothing: a
// finding that a newer report leaves out is unknown until the node says ok, or
// a new boot or instance proves it gone. It refuses reports of another cluster,
// reports that are not newer than the one held, and more nodes than it was
// sized for. Everything is in memory: after a restart a node is unknown until
// it has reported again, so no verdict from before the restart is acted upon.
package ingest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// DefaultMaxNodes is how many nodes are held unless configured otherwise.
const DefaultMaxNodes = 16384

// Reasons for refusing a report, the values of the label "reason".
const (
	ReasonMalformed = "malformed"
	ReasonTooLarge  = "too_large"
	ReasonIdentity  = "identity"
	ReasonCluster   = "cluster"
	ReasonStale     = "stale"
	ReasonFull      = "full"
)

// ErrOtherCluster refuses a report of a cluster that is not ours.
var ErrOtherCluster = errors.New("report of another cluster")

// ErrFull refuses a report of a new node while as many as allowed are held.
var ErrFull = errors.New("too many nodes")

// StaleError refuses a report that is not newer than the one held.
type StaleError struct {
	Got, Held fault.Position
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("report %d.%d of boot %s is not newer than %d.%d of boot %s, which is held",
		e.Got.Incarnation, e.Got.Sequence, e.Got.BootID, e.Held.Incarnation, e.Held.Sequence, e.Held.BootID)
}

// Options configures a Store. The zero value of a field means its default.
type Options struct {
	Cluster   string
	MaxNodes  int // DefaultMaxNodes
	Catalogue *fault.Catalogue
	// Now gives the receiver's clock, time.Now by default. Ages are differences
	// of its values, so it should carry a monotonic reading.
	Now        func() time.Time
	Registerer prometheus.Registerer // nil registers nothing
}

// Node is what is held about one node.
type Node struct {
	// Report is the newest report. It is shared and must not be modified; its
	// findings are those of the report alone.
	Report *fault.NodeReport
	// Received is when the report arrived, on the receiver's clock.
	Received time.Time
	// Findings are the report's, and those before it that nothing cleared or that
	// were cleared last.
	Findings []fault.Finding
}

// Store holds the newest report of each node. It is safe for concurrent use.
type Store struct {
	cluster   string
	maxNodes  int
	catalogue *fault.Catalogue
	now       func() time.Time
	changed   chan struct{}

	accepted prometheus.Counter
	dropped  prometheus.Counter
	refusals *prometheus.CounterVec

	mu    sync.Mutex
	nodes map[string]Node
}

// New gives an empty store.
func New(o Options) *Store {
	s := &Store{
		cluster:   o.Cluster,
		maxNodes:  cmp.Or(o.MaxNodes, DefaultMaxNodes),
		catalogue: o.Catalogue,
		now:       o.Now,
		changed:   make(chan struct{}, 1),
		nodes:     make(map[string]Node),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "evenkeel_remediator_reports_accepted_total",
			Help:        "Node reports that became the newest of their node.",
			ConstLabels: prometheus.Labels{"cluster": o.Cluster},
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "evenkeel_remediator_findings_dropped_total",
			Help:        "Findings no longer named by their node that were forgotten because too many of them were held.",
			ConstLabels: prometheus.Labels{"cluster": o.Cluster},
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "evenkeel_remediator_report_refusals_total",
			Help:        "Node reports that were refused, by reason.",
			ConstLabels: prometheus.Labels{"cluster": o.Cluster},
		}, []string{"reason"}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.catalogue == nil {
		s.catalogue = fault.NewCatalogue(fault.DefaultTiming())
	}
	for _, reason := range []string{ReasonMalformed, ReasonTooLarge, ReasonIdentity, ReasonCluster, ReasonStale, ReasonFull} {
		s.refusals.WithLabelValues(reason)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.accepted, s.dropped, s.refusals)
	}
	return s
}

// Refused counts a report that was refused before it reached the store.
func (s *Store) Refused(reason string) { s.refusals.WithLabelValues(reason).Inc() }

// Accept takes a validated report. It fails with ErrOtherCluster, a
// [*StaleError], or ErrFull, and then leaves everything as it was. The store
// keeps the report; the caller must not modify it afterwards.
func (s *Store) Accept(report *fault.NodeReport) error {
	if report.Cluster != s.cluster {
		s.Refused(ReasonCluster)
		return fmt.Errorf("%w: %q, this is %q", ErrOtherCluster, report.Cluster, s.cluster)
	}
	changed, err := s.hold(report)
	if err != nil {
		return err
	}
	s.accepted.Inc()
	if !changed {
		return nil
	}
	select {
	case s.changed <- struct{}{}:
	default: // a notice is pending already and covers this change too
	}
	return nil
}

// hold makes the report the node's newest and reports whether that gives
// anything to decide.
func (s *Store) hold(report *fault.NodeReport) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, known := s.nodes[report.Node]
	heldInstance := ""
	switch {
	case known:
		if position := held.Report.Position(); !report.Position().After(position) {
			s.Refused(ReasonStale)
			return false, &StaleError{Got: report.Position(), Held: position}
		}
		heldInstance = held.Report.InstanceID
	case len(s.nodes) >= s.maxNodes:
		s.Refused(ReasonFull)
		return false, fmt.Errorf("%w: %d are held, %s is not one of them", ErrFull, len(s.nodes), report.Node)
	}
	now := s.now()
	findings, dropped := merge(s.catalogue, held.Findings, heldInstance, report, now)
	s.dropped.Add(float64(dropped))
	next := Node{Report: report, Received: now, Findings: findings}
	s.nodes[report.Node] = next
	return !known || !sameForDecisions(held, next), nil
}

// Changed gives the channel on which a value waits after reports were accepted
// that gave anything to decide; several may share one value.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Nodes gives what is held about every node, ordered by name. The slices and
// reports are shared: read only.
func (s *Store) Nodes() []Node {
	s.mu.Lock()
	nodes := make([]Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	s.mu.Unlock()
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Report.Node, b.Report.Node) })
	return nodes
}

// Forget drops a node that has left the cluster, unless it reported after
// since.
func (s *Store) Forget(node string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, known := s.nodes[node]; known && !held.Received.After(since) {
		delete(s.nodes, node)
	}
}
