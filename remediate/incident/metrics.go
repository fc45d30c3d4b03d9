package incident

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/remediate/guard"
)

// The reasons for a hold that no guard gives: the world's.
const (
	// holdWorld is an orchestrator or a provider that does not answer.
	holdWorld = "world"
	// holdJob is a job that is not where it has to be yet.
	holdJob = "job"
	// holdCheckpoint is a job without a checkpoint that it may be resumed from.
	holdCheckpoint = "checkpoint"
	// holdRefused is a call that was refused or went unanswered, until it is tried
	// or judged again.
	holdRefused = "refused"
	// holdReturn is a node that is not back yet, or not well yet.
	holdReturn = "return"
)

var holdNames = append([]string{holdWorld, holdJob, holdCheckpoint, holdRefused, holdReturn}, guard.Names...)

type metrics struct {
	closed     *prometheus.CounterVec
	actions    *prometheus.CounterVec
	duplicates prometheus.Counter
	phases     *prometheus.HistogramVec
	decision   prometheus.Histogram
}

// newMetrics registers the metrics, with zeros for every known label. The gauges
// are read from the controller when they are collected.
func newMetrics(c *Controller, reg prometheus.Registerer) *metrics {
	labels := prometheus.Labels{"cluster": c.opts.Cluster}
	m := &metrics{
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remediator_incidents_total", Help: "Incidents closed, by outcome.", ConstLabels: labels,
		}, []string{"outcome"}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remediator_actions_total", Help: "Steps of incidents, by what came of them.", ConstLabels: labels,
		}, []string{"action", "outcome"}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_remediator_duplicate_actions_total", Help: "Replacements asked for an instance that was replaced already. Must be 0.", ConstLabels: labels,
		}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "evenkeel_remediator_phase_seconds", Help: "Time that incidents spent in a phase.", ConstLabels: labels,
			Buckets: []float64{0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200},
		}, []string{"phase"}),
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "evenkeel_remediator_decision_seconds", Help: "Time to judge the facts of one moment.", ConstLabels: labels,
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1},
		}),
	}
	for _, o := range Outcomes {
		m.closed.WithLabelValues(string(o))
	}
	for _, name := range StepNames {
		for _, o := range StepOutcomes {
			m.actions.WithLabelValues(string(name), string(o))
		}
	}
	for _, s := range States {
		if s != Closed {
			m.phases.WithLabelValues(string(s))
		}
	}
	if reg != nil {
		reg.MustRegister(m.closed, m.actions, m.duplicates, m.phases, m.decision, &gauges{
			c:         c,
			incidents: prometheus.NewDesc("evenkeel_remediator_incidents", "Open incidents, by state.", []string{"state"}, labels),
			holds:     prometheus.NewDesc("evenkeel_remediator_holds", "Holds on open incidents, by what holds them.", []string{"reason"}, labels),
			kill:      prometheus.NewDesc("evenkeel_remediator_kill_switch", "1 while the kill switch is on.", nil, labels),
		})
	}
	return m
}

func (m *metrics) step(s *Step) { m.actions.WithLabelValues(string(s.Name), string(s.Outcome)).Inc() }

func (m *metrics) phase(s State, d time.Duration) {
	m.phases.WithLabelValues(string(s)).Observe(d.Seconds())
}

// gauges reads the controller's state when it is scraped.
type gauges struct {
	c                      *Controller
	incidents, holds, kill *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- g.incidents
	ch <- g.holds
	ch <- g.kill
}

// Collect implements [prometheus.Collector].
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	states := make(map[State]int)
	for _, t := range g.c.openIncidents() {
		states[t.current().State]++
	}
	for _, s := range States {
		if s != Closed {
			ch <- prometheus.MustNewConstMetric(g.incidents, prometheus.GaugeValue, float64(states[s]), string(s))
		}
	}
	held := make(map[string]int)
	for _, h := range g.c.Holds() {
		held[h.Guard]++
	}
	for _, name := range holdNames {
		ch <- prometheus.MustNewConstMetric(g.holds, prometheus.GaugeValue, float64(held[name]), name)
	}
	on := 0.0
	if g.c.KillSwitch().On {
		on = 1
	}
	ch <- prometheus.MustNewConstMetric(g.kill, prometheus.GaugeValue, on)
}
