package remediate

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// fleet exports what is known of the nodes, as of the scrape.
type fleet struct {
	list               func() fault.NodeList
	nodes, age, alerts *prometheus.Desc
}

func newFleet(cluster string, list func() fault.NodeList) *fleet {
	labels := prometheus.Labels{"cluster": cluster}
	return &fleet{
		list:   list,
		nodes:  prometheus.NewDesc("evenkeel_remediator_nodes", "Nodes that reported or that the orchestrator lists, by state.", []string{"state"}, labels),
		age:    prometheus.NewDesc("evenkeel_remediator_node_report_age_seconds", "Time since the newest report of a node. A node that never reported to this process has no series.", []string{"node"}, labels),
		alerts: prometheus.NewDesc("evenkeel_remediator_nodes_with_alerts", "Nodes on which Alertmanager says that an alert fires.", nil, labels),
	}
}

// Describe implements [prometheus.Collector].
func (f *fleet) Describe(ch chan<- *prometheus.Desc) {
	ch <- f.nodes
	ch <- f.age
	ch <- f.alerts
}

// Collect implements [prometheus.Collector].
func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	states := map[fault.State]int{fault.OK: 0, fault.Bad: 0, fault.Unknown: 0}
	alerting := 0
	for _, n := range f.list().Nodes {
		states[n.State]++
		if len(n.Alerts) > 0 {
			alerting++
		}
		if n.ReportAgeSeconds >= 0 {
			ch <- prometheus.MustNewConstMetric(f.age, prometheus.GaugeValue, n.ReportAgeSeconds, n.Node)
		}
	}
	for state, count := range states {
		ch <- prometheus.MustNewConstMetric(f.nodes, prometheus.GaugeValue, float64(count), string(state))
	}
	ch <- prometheus.MustNewConstMetric(f.alerts, prometheus.GaugeValue, float64(alerting))
}
