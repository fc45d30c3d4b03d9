package remotewrite

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/golang/snappy"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of one body. Stores count a body in samples and in bytes: Managed
// Prometheus refuses requests above 1 MB, and Prometheus itself sends at most
// 2,000 samples at once by default.
const (
	maxBodySamples = 1000
	maxBodyBytes   = 1_000_000 // uncompressed
)

// Field numbers of the remote-write 1.0 messages.
//
//	WriteRequest { repeated TimeSeries timeseries = 1; }
//	TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2; }
//	Label        { string name = 1; string value = 2; }
//	Sample       { double value = 1; int64 timestamp = 2; }
const (
	fieldTimeSeries      protowire.Number = 1
	fieldLabels          protowire.Number = 1
	fieldSamples         protowire.Number = 2
	fieldLabelName       protowire.Number = 1
	fieldLabelValue      protowire.Number = 2
	fieldSampleValue     protowire.Number = 1
	fieldSampleTimestamp protowire.Number = 2
)

// staleNaN is the bit pattern by which Prometheus knows that a series has ended
// (value.StaleNaN in its model); it differs from every NaN that arithmetic makes.
const staleNaN uint64 = 0x7ff0000000000002

// Body is one finished remote-write 1.0 request body.
type Body struct {
	// Time is when its samples were taken, in milliseconds since 1970; the oldest
	// where samples carry times of their own.
	Time    int64
	Samples int
	// Content is snappy-compressed.
	Content []byte
}

// Encoder turns gatherings into bodies. It remembers the encoded labels of each
// series and which series the gathering before had, so that one that vanished
// is ended by a staleness marker. It is not safe for concurrent use.
type Encoder struct {
	external []label
	series   map[string]*series
	round    uint64

	key        []byte // scratch: identity of the series at hand
	body       []byte // the request being built
	compressed []byte
	bodyTime   int64
	samples    int
	tooLarge   int
	emit       func(Body)
}

// series is what the encoder knows about one series.
type series struct {
	// head is the encoded labels: everything of the TimeSeries message but the sample.
	head  []byte
	round uint64 // the gathering that had it last
	// ownTime marks samples that carry their source's time. Such a series gets no
	// staleness marker: nobody knows the time at which it ended.
	ownTime bool
}

// NewEncoder makes an encoder that adds the external labels to each series that
// does not have them itself.
func NewEncoder(external map[string]string) *Encoder {
	e := &Encoder{series: make(map[string]*series)}
	for name, value := range external {
		e.external = append(e.external, label{name, value})
	}
	return e
}

// Encode turns one gathering, taken at a time, into bodies and hands each to
// emit; a body's content is valid until emit returns. Families are as a
// [prometheus.Gatherer] gives them. It returns how many samples were left out
// because their labels alone exceed the size of a body.
//
// Histograms and summaries become the series of their classic text form.
func (e *Encoder) Encode(families []*dto.MetricFamily, at time.Time, emit func(Body)) (tooLarge int) {
	e.round++
	e.tooLarge, e.emit = 0, emit
	now := at.UnixMilli()
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			e.metric(family, metric, now)
		}
	}
	for key, s := range e.series {
		if s.round == e.round {
			continue
		}
		if !s.ownTime {
			e.sample(s, staleNaN, now)
		}
		delete(e.series, key)
	}
	e.flush()
	e.emit = nil
	return e.tooLarge
}

// Suffixes that tell the series of one metric apart; part of a series' key.
const (
	suffixNone   = ""
	suffixBucket = "_bucket"
	suffixSum    = "_sum"
	suffixCount  = "_count"
)

func (e *Encoder) metric(family *dto.MetricFamily, metric *dto.Metric, now int64) {
	at, ownTime := now, false
	if metric.TimestampMs != nil {
		at, ownTime = metric.GetTimestampMs(), true
	}
	add := func(suffix, boundName string, bound, value float64) {
		e.sample(e.lookup(family.GetName(), suffix, boundName, bound, metric.GetLabel(), ownTime), math.Float64bits(value), at)
	}
	switch family.GetType() {
	case dto.MetricType_COUNTER:
		add(suffixNone, "", 0, metric.GetCounter().GetValue())
	case dto.MetricType_GAUGE:
		add(suffixNone, "", 0, metric.GetGauge().GetValue())
	case dto.MetricType_UNTYPED:
		add(suffixNone, "", 0, metric.GetUntyped().GetValue())
	case dto.MetricType_SUMMARY:
		summary := metric.GetSummary()
		for _, q := range summary.GetQuantile() {
			add(suffixNone, "quantile", q.GetQuantile(), q.GetValue())
		}
		add(suffixSum, "", 0, summary.GetSampleSum())
		add(suffixCount, "", 0, float64(summary.GetSampleCount()))
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		histogram := metric.GetHistogram()
		infinite := false
		for _, b := range histogram.GetBucket() {
			add(suffixBucket, "le", b.GetUpperBound(), float64(b.GetCumulativeCount()))
			infinite = infinite || math.IsInf(b.GetUpperBound(), +1)
		}
		if !infinite {
			add(suffixBucket, "le", math.Inf(+1), float64(histogram.GetSampleCount()))
		}
		add(suffixSum, "", 0, histogram.GetSampleSum())
		add(suffixCount, "", 0, float64(histogram.GetSampleCount()))
	}
}

// countSamples says how many samples Encode makes of families, staleness markers
// aside.
func countSamples(families []*dto.MetricFamily) (n int) {
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch {
			case m.Summary != nil:
				n += len(m.Summary.GetQuantile()) + 2 // sum, count
			case m.Histogram != nil:
				n += len(m.Histogram.GetBucket()) + 3 // +Inf, sum, count
			default:
				n++
			}
		}
	}
	return n
}

// lookup finds or makes the series. The key is built in scratch space: a map
// access by string(bytes) does not allocate.
func (e *Encoder) lookup(name, suffix, boundName string, bound float64, labels []*dto.LabelPair, ownTime bool) *series {
	const separator = 0xff // in no UTF-8 string
	key := append(e.key[:0], name...)
	key = append(append(key, separator), suffix...)
	key = append(append(key, separator), boundName...)
	key = binary.BigEndian.AppendUint64(key, math.Float64bits(bound))
	for _, l := range labels {
		key = append(append(key, separator), l.GetName()...)
		key = append(append(key, separator), l.GetValue()...)
	}
	e.key = key
	s := e.series[string(key)]
	if s == nil {
		s = &series{head: e.head(name+suffix, boundName, bound, labels), ownTime: ownTime}
		e.series[string(key)] = s
	}
	s.round = e.round
	return s
}

// head encodes the labels of a series in the order of their names. Empty values
// mean absent labels to Prometheus and are left out.
func (e *Encoder) head(name, boundName string, bound float64, labels []*dto.LabelPair) []byte {
	all := newLabels(name)
	for _, l := range labels {
		all.add(l.GetName(), l.GetValue())
	}
	if boundName != "" {
		all.add(boundName, formatBound(bound))
	}
	for _, l := range e.external {
		all.add(l.name, l.value) // loses to the series' own
	}
	var out []byte
	for _, l := range all.sorted() {
		size := protowire.SizeTag(fieldLabelName) + protowire.SizeBytes(len(l.name)) +
			protowire.SizeTag(fieldLabelValue) + protowire.SizeBytes(len(l.value))
		out = protowire.AppendTag(out, fieldLabels, protowire.BytesType)
		out = protowire.AppendVarint(out, uint64(size))
		out = protowire.AppendTag(out, fieldLabelName, protowire.BytesType)
		out = protowire.AppendString(out, l.name)
		out = protowire.AppendTag(out, fieldLabelValue, protowire.BytesType)
		out = protowire.AppendString(out, l.value)
	}
	return out
}

// sample appends one sample, and starts a new body where the one at hand is full.
func (e *Encoder) sample(s *series, bits uint64, at int64) {
	sampleSize := protowire.SizeTag(fieldSampleValue) + protowire.SizeFixed64() +
		protowire.SizeTag(fieldSampleTimestamp) + protowire.SizeVarint(uint64(at))
	seriesSize := len(s.head) + protowire.SizeTag(fieldSamples) + protowire.SizeBytes(sampleSize)
	size := protowire.SizeTag(fieldTimeSeries) + protowire.SizeBytes(seriesSize)
	if size > maxBodyBytes {
		e.tooLarge++
		return
	}
	if e.samples == maxBodySamples || len(e.body)+size > maxBodyBytes {
		e.flush()
	}
	if e.samples == 0 || at < e.bodyTime {
		e.bodyTime = at
	}
	body := protowire.AppendTag(e.body, fieldTimeSeries, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(seriesSize))
	body = append(body, s.head...)
	body = protowire.AppendTag(body, fieldSamples, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(sampleSize))
	body = protowire.AppendTag(body, fieldSampleValue, protowire.Fixed64Type)
	body = protowire.AppendFixed64(body, bits)
	body = protowire.AppendTag(body, fieldSampleTimestamp, protowire.VarintType)
	e.body = protowire.AppendVarint(body, uint64(at))
	e.samples++
}

func (e *Encoder) flush() {
	if e.samples == 0 {
		return
	}
	e.compressed = snappy.Encode(e.compressed[:cap(e.compressed)], e.body)
	e.emit(Body{Time: e.bodyTime, Samples: e.samples, Content: e.compressed})
	e.body, e.samples = e.body[:0], 0
}

// formatBound writes the value of le and quantile as Prometheus 3 stores it
// whatever the scraped format was: "1.0", not "1". A bound pushed here is then
// the same series as the one scraped.
func formatBound(f float64) string {
	switch {
	case math.IsInf(f, +1):
		return "+Inf"
	case math.IsInf(f, -1):
		return "-Inf"
	case math.IsNaN(f):
		return "NaN"
	}
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if strings.ContainsAny(s, "e.") {
		return s
	}
	return s + ".0"
}
