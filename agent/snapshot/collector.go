package snapshot

import (
	"cmp"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// collector makes metrics of the state it holds. They are made anew each time:
// a device, finding or process that is gone takes its series with it.
type collector struct {
	labels prometheus.Labels // on every metric
	state  atomic.Pointer[State]

	finding   *prometheus.Desc
	findings  *prometheus.Desc
	sourceUp  *prometheus.Desc
	sourceAge *prometheus.Desc
	heartbeat *prometheus.Desc
	process   *prometheus.Desc
}

func newCollector(cluster, node string) *collector {
	labels := prometheus.Labels{"cluster": cluster, "node": node}
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, variable, labels)
	}
	return &collector{
		labels: labels,
		finding: desc("evenkeel_agent_finding",
			"1 for each thing that is wrong on the node in its present boot.",
			"kind", "severity", "action", "device", "pci", "uuid", "provisional", "simulated"),
		findings: desc("evenkeel_agent_findings",
			"Findings of the present boot, by state; what is ok is none.",
			"state"),
		sourceUp: desc("evenkeel_agent_source_up",
			"1 while the source can be read, 0 while it should answer and does not; no series for hardware that the node does not have.",
			"source"),
		sourceAge: desc("evenkeel_agent_source_age_seconds",
			"Time since the source last answered; no series for one that never did.",
			"source"),
		heartbeat: desc("evenkeel_agent_heartbeat_timestamp_seconds",
			"When the agent took this snapshot, in seconds since 1970."),
		process: desc("evenkeel_process_info",
			"1 for each process that computes on a device of the node.",
			"job", "rank", "local_rank", "UUID", "gpu"),
	}
}

// Describe gives nothing: which readings there will be is the sources' business.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect makes the metrics of the latest state.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	state := c.state.Load()
	if state == nil {
		return
	}
	c.collectFindings(ch, state.Findings)
	for _, s := range state.Sources {
		c.collectSource(ch, s)
	}
	c.collectProcesses(ch, state.Processes)
	ch <- gauge(c.heartbeat, float64(state.Time.UnixMilli())/1000)
}

func (c *collector) collectFindings(ch chan<- prometheus.Metric, findings []fault.Finding) {
	count := map[fault.State]int{fault.Bad: 0, fault.Unknown: 0}
	shown := make(map[[8]string]bool)
	for i := range findings {
		f := &findings[i]
		if f.History || f.State == fault.OK {
			continue
		}
		count[f.State]++
		if f.State != fault.Bad {
			continue
		}
		// Two subjects whose names do not tell them apart here are one series.
		values := [8]string{
			string(f.Kind), string(f.Severity), string(f.Action),
			cmp.Or(string(f.Subject.Device), "node"), f.Subject.PCI, f.Subject.UUID,
			strconv.FormatBool(f.Provisional), strconv.FormatBool(f.Simulated),
		}
		if !shown[values] {
			shown[values] = true
			ch <- gauge(c.finding, 1, values[:]...)
		}
	}
	for state, n := range count {
		ch <- gauge(c.findings, float64(n), string(state))
	}
}

func (c *collector) collectSource(ch chan<- prometheus.Metric, s Source) {
	switch s.Coverage {
	case fault.CoverageAbsent:
		return
	case fault.CoverageOK:
		ch <- gauge(c.sourceUp, 1, s.Name)
	default:
		ch <- gauge(c.sourceUp, 0, s.Name)
	}
	if s.Age >= 0 {
		ch <- gauge(c.sourceAge, s.Age.Seconds(), s.Name)
	}
	for i := range s.Readings {
		ch <- c.reading(&s.Readings[i])
	}
}

func (c *collector) reading(r *source.Reading) prometheus.Metric {
	names, values := make([]string, len(r.Labels)), make([]string, len(r.Labels))
	for i, l := range r.Labels {
		names[i], values[i] = l.Name, l.Value
	}
	kind := prometheus.GaugeValue
	if r.Type == source.Counter {
		kind = prometheus.CounterValue
	}
	return metric(prometheus.NewDesc(r.Name, r.Help, names, c.labels), kind, r.Value, values...)
}

func (c *collector) collectProcesses(ch chan<- prometheus.Metric, processes []fault.Process) {
	shown := make(map[[5]string]bool)
	for _, p := range processes {
		values := [5]string{p.Job, optional(p.Rank), optional(p.LocalRank), p.DeviceUUID, strconv.Itoa(p.DeviceIndex)}
		if !shown[values] { // several processes of one rank are one series
			shown[values] = true
			ch <- gauge(c.process, 1, values[:]...)
		}
	}
}

func optional(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// metric makes a metric; one that cannot be is left out, and named in Take's error.
func metric(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) prometheus.Metric {
	m, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return metric(desc, prometheus.GaugeValue, value, labels...)
}
