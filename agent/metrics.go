package agent

import "github.com/prometheus/client_golang/prometheus"

// metrics are the agent's own, beside those of its parts.
type metrics struct {
	restarts       *prometheus.CounterVec
	saveErrors     prometheus.Counter
	snapshotErrors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, n *node, sources []string) *metrics {
	m := &metrics{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_agent_source_restarts_total",
			Help: "Times that a source failed and was started again.",
		}, []string{"source"}),
		saveErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_agent_state_save_errors_total",
			Help: "Times that the agent's state could not be saved.",
		}),
		snapshotErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_agent_snapshot_errors_total",
			Help: "Snapshots from which metrics had to be left out.",
		}),
	}
	for _, source := range sources {
		m.restarts.WithLabelValues(source)
	}
	reg.MustRegister(m.restarts, m.saveErrors, m.snapshotErrors, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "evenkeel_agent_observations_dropped_total",
		Help: "Observations that were not taken: of a kind that the catalogue does not have, or more than one node can honestly have.",
	}, func() float64 { return float64(n.dropped()) }))
	return m
}
