package remotewrite

import "github.com/prometheus/client_golang/prometheus"

// Reasons for which samples are given up: label values of
// evenkeel_remote_write_dropped_samples_total.
const (
	dropTooOld    = "too_old"    // older than the spool's max_age
	dropSpoolFull = "spool_full" // beyond the spool's max_bytes
	dropDisk      = "disk"       // the disk would not take or give them
	dropCorrupt   = "corrupt"    // damaged on disk
	dropTooLarge  = "too_large"  // labels alone exceed a body
	dropRejected  = "rejected"   // the store refused them for good
)

// Outcomes of one request: label values of evenkeel_remote_write_requests_total.
const (
	outcomeDelivered = "delivered"
	outcomeRejected  = "rejected"
	outcomeRetried   = "retried"
)

// metrics are the package's own; every known label value is exported as zero
// from the start.
type metrics struct {
	samples     prometheus.Counter
	sentSamples prometheus.Counter
	sentBytes   prometheus.Counter
	dropped     *prometheus.CounterVec
	requests    *prometheus.CounterVec
	corruptions prometheus.Counter
	newestSent  prometheus.Gauge
}

// newMetrics registers with reg; nil discards.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		samples: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_samples_total",
			Help: "Samples put into the spool.",
		}),
		sentSamples: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_sent_samples_total",
			Help: "Samples that the store acknowledged.",
		}),
		sentBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_sent_bytes_total",
			Help: "Compressed bytes of bodies that the store acknowledged.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_dropped_samples_total",
			Help: "Samples given up, by reason.",
		}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_requests_total",
			Help: "Requests made to the store, by outcome.",
		}, []string{"outcome"}),
		corruptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_remote_write_spool_corruptions_total",
			Help: "Places in the spool that did not hold what was written; the samples lost there are unknown unless counted as dropped.",
		}),
		newestSent: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "evenkeel_remote_write_highest_sent_timestamp_seconds",
			Help: "Time of the newest sample that the store acknowledged, in seconds since 1970; 0 for none yet.",
		}),
	}
	for _, reason := range []string{dropTooOld, dropSpoolFull, dropDisk, dropCorrupt, dropTooLarge, dropRejected} {
		m.dropped.WithLabelValues(reason)
	}
	for _, outcome := range []string{outcomeDelivered, outcomeRejected, outcomeRetried} {
		m.requests.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(m.samples, m.sentSamples, m.sentBytes, m.dropped, m.requests, m.corruptions, m.newestSent)
	}
	return m
}

func (m *metrics) drop(reason string, samples int) {
	m.dropped.WithLabelValues(reason).Add(float64(samples))
}

// registerSpool exports the state of a spool; nil discards.
func registerSpool(reg prometheus.Registerer, s *Spool) {
	if reg == nil {
		return
	}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "evenkeel_remote_write_spool_bytes",
			Help: "Bytes that the spool takes on disk.",
		}, func() float64 { return float64(s.Pending().Bytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "evenkeel_remote_write_spool_samples",
			Help: "Samples that wait to be sent.",
		}, func() float64 { return float64(s.Pending().Samples) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "evenkeel_remote_write_spool_oldest_timestamp_seconds",
			Help: "Time of the oldest sample that waits to be sent, in seconds since 1970; 0 when none waits.",
		}, func() float64 { return float64(s.Pending().Oldest) / 1000 }),
	)
}
