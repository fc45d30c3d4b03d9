package remediate

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// The sources that the remediator itself asks, the values of the label "source".
const (
	sourceAlertmanager = "alertmanager"
	sourceOrchestrator = "orchestrator"
	sourceHyperPod     = "hyperpod"
)

// sources remembers which source answered when it was last asked. It logs the
// changes and no more, so that a source that is down for a day is one line.
type sources struct {
	logger *slog.Logger
	up     *prometheus.GaugeVec

	mu   sync.Mutex
	last map[string]bool
}

func newSources(cluster string, reg prometheus.Registerer, logger *slog.Logger) *sources {
	s := &sources{
		logger: logger,
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name:        "evenkeel_remediator_source_up",
			Help:        "1 if the source answered when it was last asked. A source that is not configured or was never asked has no series.",
			ConstLabels: prometheus.Labels{"cluster": cluster},
		}, []string{"source"}),
		last: make(map[string]bool),
	}
	reg.MustRegister(s.up)
	return s
}

// answered records what came of asking a source.
func (s *sources) answered(source string, err error) {
	if errors.Is(err, context.Canceled) {
		return // the asking stopped, not the answering
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	up := err == nil
	before, known := s.last[source]
	s.last[source] = up
	switch {
	case up:
		s.up.WithLabelValues(source).Set(1)
		if known && !before {
			s.logger.Info("Source answers again", "source", source)
		}
	default:
		s.up.WithLabelValues(source).Set(0)
		if !known || before {
			s.logger.Warn("Source does not answer", "source", source, "err", err)
		}
	}
}

// machines is the provider, with a record of whether it answers.
type machines struct {
	incident.Machines
	sources *sources
}

func (m machines) note(err error) {
	if errors.Is(err, incident.ErrNotFound) {
		err = nil // that is an answer
	}
	m.sources.answered(sourceHyperPod, err)
}

// Instance implements [incident.Machines].
func (m machines) Instance(ctx context.Context, id string) (incident.Machine, error) {
	machine, err := m.Machines.Instance(ctx, id)
	m.note(err)
	return machine, err
}

// AtNode implements [incident.Machines].
func (m machines) AtNode(ctx context.Context, node string) (incident.Machine, error) {
	machine, err := m.Machines.AtNode(ctx, node)
	m.note(err)
	return machine, err
}

// views holds the orchestrator's view of every node, as of the last time it
// gave one.
type views struct {
	mu     sync.Mutex
	at     time.Time
	byNode map[string]*incident.NodeView
}

// set takes what the orchestrator said; the slice is the views' own from then on.
func (v *views) set(at time.Time, all []incident.NodeView) {
	byNode := make(map[string]*incident.NodeView, len(all))
	for i := range all {
		byNode[all[i].Node] = &all[i]
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at, v.byNode = at, byNode
}

// current gives the views by node unless they are older than freshWithin; false
// means that nothing is known. Map and views are never changed.
func (v *views) current(now time.Time, freshWithin time.Duration) (map[string]*incident.NodeView, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.at.IsZero() || now.Sub(v.at) > freshWithin {
		return nil, false
	}
	return v.byNode, true
}

// signal wakes one goroutine; signals that meet are one.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// every calls do at once, then each interval and on each signal, until ctx ends.
func every(ctx context.Context, interval time.Duration, wake signal, do func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-wake:
		}
	}
}
