package remotewrite

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

var at = time.UnixMilli(1_700_000_000_123)

// encode gives every sample of one gathering in the order in which it is sent.
func encode(t testing.TB, e *Encoder, families []*dto.MetricFamily, at time.Time) []string {
	t.Helper()
	var out []string
	e.Encode(families, at, func(b Body) {
		samples := decodeBody(t, b.Content)
		if len(samples) != b.Samples {
			t.Errorf("body holds %d samples and says %d", len(samples), b.Samples)
		}
		if b.Samples > maxBodySamples {
			t.Errorf("body holds %d samples, want at most %d", b.Samples, maxBodySamples)
		}
		for _, s := range samples {
			if !slices.IsSortedFunc(s.labels, func(a, b label) int { return strings.Compare(a.name, b.name) }) {
				t.Errorf("labels are not sorted: %v", s)
			}
			out = append(out, s.String())
		}
	})
	return out
}

func gather(t testing.TB, collectors ...prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(collectors...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func TestEncodeEveryType(t *testing.T) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total", Help: "h"}, []string{"UUID", "empty"})
	counter.WithLabelValues("GPU-1", "").Add(3)
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g", Help: "h", ConstLabels: prometheus.Labels{"node": "own"}})
	gauge.Set(math.Inf(-1))
	untyped := prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "u", Help: "h"}, func() float64 { return 0.1 })
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h_seconds", Help: "h", Buckets: []float64{0.25, 1}})
	histogram.Observe(0.5)
	histogram.Observe(7)
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "s_seconds", Help: "h", Objectives: map[float64]float64{0.5: 0.1}})
	summary.Observe(2)

	e := NewEncoder(map[string]string{"cluster": "c", "node": "n1"})
	families := gather(t, counter, gauge, untyped, histogram, summary)
	got := encode(t, e, families, at)
	if n := countSamples(families); n != len(got) {
		t.Errorf("countSamples = %d, Encode made %d", n, len(got))
	}
	const tail = ` @1700000000123`
	want := []string{
		`UUID="GPU-1" __name__="c_total" cluster="c" node="n1" 3` + tail,
		`__name__="g" cluster="c" node="own" -Inf` + tail,
		`__name__="h_seconds_bucket" cluster="c" le="0.25" node="n1" 0` + tail,
		`__name__="h_seconds_bucket" cluster="c" le="1.0" node="n1" 1` + tail,
		`__name__="h_seconds_bucket" cluster="c" le="+Inf" node="n1" 2` + tail,
		`__name__="h_seconds_sum" cluster="c" node="n1" 7.5` + tail,
		`__name__="h_seconds_count" cluster="c" node="n1" 2` + tail,
		`__name__="s_seconds" cluster="c" node="n1" quantile="0.5" 2` + tail,
		`__name__="s_seconds_sum" cluster="c" node="n1" 2` + tail,
		`__name__="s_seconds_count" cluster="c" node="n1" 1` + tail,
		`__name__="u" cluster="c" node="n1" 0.1` + tail,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Encode (-want +got):\n%s", diff)
	}
}

func TestEncodeEndsVanishedSeries(t *testing.T) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g", Help: "h"}, []string{"gpu"})
	gauge.WithLabelValues("0").Set(1)
	gauge.WithLabelValues("1").Set(1)
	e := NewEncoder(nil)
	encode(t, e, gather(t, gauge), at)

	gauge.DeleteLabelValues("1")
	for i, want := range [][]string{
		{`__name__="g" gpu="0" 1 @1700000000124`, `__name__="g" gpu="1" stale @1700000000124`},
		{`__name__="g" gpu="0" 1 @1700000000125`}, // ended once
	} {
		if diff := cmp.Diff(want, encode(t, e, gather(t, gauge), at.Add(time.Duration(i+1)*time.Millisecond))); diff != "" {
			t.Errorf("gathering %d (-want +got):\n%s", i, diff)
		}
	}

	gauge.WithLabelValues("1").Set(2) // and begins again
	want := []string{`__name__="g" gpu="0" 1 @1700000000126`, `__name__="g" gpu="1" 2 @1700000000126`}
	if diff := cmp.Diff(want, encode(t, e, gather(t, gauge), at.Add(3*time.Millisecond))); diff != "" {
		t.Errorf("series that came back (-want +got):\n%s", diff)
	}
}

func TestEncodeKeepsASamplesOwnTime(t *testing.T) {
	family := &dto.MetricFamily{Name: new("g"), Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: new(1.0)}, TimestampMs: new(int64(42))}}}
	e := NewEncoder(nil)
	if got, want := encode(t, e, []*dto.MetricFamily{family}, at), []string{`__name__="g" 1 @42`}; !slices.Equal(got, want) {
		t.Errorf("Encode = %q, want %q", got, want)
	}
	if got := encode(t, e, nil, at); len(got) != 0 {
		t.Errorf("after it vanished = %q, want no staleness marker", got)
	}
}

func TestEncodeSplits(t *testing.T) {
	long := strings.Repeat("x", 400_000)
	for _, tc := range []struct {
		name  string
		count int
		value string
		want  []int
	}{
		{"nothing", 0, "", nil},
		{"one full body", maxBodySamples, "", []int{maxBodySamples}},
		{"one more", maxBodySamples + 1, "", []int{maxBodySamples, 1}},
		{"by bytes", 5, long, []int{2, 2, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g", Help: "h"}, []string{"i", "long"})
			for i := range tc.count {
				gauge.WithLabelValues(fmt.Sprint(i), tc.value).Set(1)
			}
			var got []int
			NewEncoder(nil).Encode(gather(t, gauge), at, func(b Body) {
				got = append(got, len(decodeBody(t, b.Content)))
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("samples per body = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestEncodeLeavesOutWhatNoBodyHolds(t *testing.T) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g", Help: "h"}, []string{"long"})
	gauge.WithLabelValues(strings.Repeat("x", maxBodyBytes)).Set(1)
	gauge.WithLabelValues("short").Set(1)
	samples := 0
	tooLarge := NewEncoder(nil).Encode(gather(t, gauge), at, func(b Body) { samples += b.Samples })
	if tooLarge != 1 || samples != 1 {
		t.Errorf("Encode left out %d and sent %d samples, want 1 and 1", tooLarge, samples)
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	families := steadyFamilies(t, 100)
	var first, second []byte
	NewEncoder(nil).Encode(families, at, func(b Body) { first = bytes.Clone(b.Content) })
	NewEncoder(nil).Encode(families, at, func(b Body) { second = bytes.Clone(b.Content) })
	if !bytes.Equal(first, second) {
		t.Error("two encoders made different bodies of one gathering")
	}
}

func TestEncodeAllocatesNothingInSteadyState(t *testing.T) {
	families := steadyFamilies(t, 2000)
	e := NewEncoder(map[string]string{"cluster": "c", "node": "n"})
	discard := func(Body) {}
	e.Encode(families, at, discard)
	// The few allocations that may remain are per gathering, not per sample.
	if allocs := testing.AllocsPerRun(10, func() { e.Encode(families, at, discard) }); allocs > 2 {
		t.Errorf("Encode of 2000 known series allocates %v times, want at most 2", allocs)
	}
}

func TestFormatBound(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", 1: "1.0", -1: "-1.0", 0.25: "0.25", 1e21: "1e+21", 1e-7: "1e-07", 2.5e9: "2.5e+09", math.Inf(1): "+Inf", math.Inf(-1): "-Inf",
	} {
		if got := formatBound(f); got != want {
			t.Errorf("formatBound(%v) = %q, want %q", f, got, want)
		}
	}
	if got := formatBound(math.NaN()); got != "NaN" {
		t.Errorf("formatBound(NaN) = %q", got)
	}
}

// steadyFamilies are n series of 12 labels, about what a node of 8 GPUs exports.
func steadyFamilies(t testing.TB, n int) []*dto.MetricFamily {
	names := []string{"UUID", "pci_bus_id", "device", "modelName", "Hostname", "gpu", "a", "b", "c", "d"}
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "DCGM_FI_DEV_GPU_TEMP", Help: "h"}, names)
	for i := range n {
		values := make([]string, len(names))
		for j := range values {
			values[j] = fmt.Sprintf("value-%d-%d", j, i%(j+1))
		}
		values[0] = fmt.Sprintf("GPU-%036d", i)
		gauge.WithLabelValues(values...).Set(float64(i) * 1.1)
	}
	return gather(t, gauge)
}

func BenchmarkEncode(b *testing.B) {
	families := steadyFamilies(b, 2000)
	e := NewEncoder(map[string]string{"cluster": "c", "node": "n"})
	size := 0
	count := func(body Body) { size += len(body.Content) }
	e.Encode(families, at, count)
	b.ReportAllocs()
	for b.Loop() {
		size = 0
		e.Encode(families, at, count)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/sample")
	b.ReportMetric(float64(size), "bytes/gathering")
}
