// Package engine scrapes the metrics of inference engines and reads their
// prompt tokens by tier from them.
//
// A [Mapping] is what one engine calls things; it is data, one table per
// engine, in a package of its own below this one. [TargetFile] says what to
// scrape, [Pool] when. The package refuses to take a missing series for a zero,
// a histogram for a counter, and a target file that cannot be read for an empty
// one.
package engine

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/evenkeel/evenkeel/collector/cache"
)

// Series names one counter of an engine. The name is without "_total": client
// libraries add it, older ones and OpenMetrics do not. The zero Series is none.
type Series struct {
	Name string
	// Label and Value choose one series of the family where they are set.
	Label, Value string
}

// Way is one way to read the parts from what an engine exposes. A way is usable
// if the families of Total, or of all parts, are there.
type Way struct {
	// Name is how metrics and logs call the way.
	Name string
	// Total counts all prompt tokens.
	Total Series
	// Computed is the part that no tier supplied. If it is none, the part is what
	// Total leaves, and the parts cannot be checked against it.
	Computed Series
	Device   Series
	// External is zero for an engine that does not expose it: it has no connector.
	External Series
}

// Mapping is what one kind of engine exposes.
type Mapping struct {
	// Engine is the name of the kind, "vllm".
	Engine string
	// Split are the labels that tell apart several engines behind one endpoint.
	Split []string
	// Ways are tried in order; the first that is usable is used.
	Ways []Way
	// Started are gauges of the process's start time in seconds since 1970.
	Started []string
}

// Reading is what one scrape says about one engine of a target.
type Reading struct {
	// Engine tells the engines of the target apart.
	Engine string
	// Way is the name of the way in use.
	Way string
	cache.Reading
}

// ErrNoSeries is in the chain of [Mapping.Read]'s error when the exposition is
// well-formed but has none of the series that any way needs.
var ErrNoSeries = errors.New("no usable token series")

// MaxExpositionBytes bounds one scrape. A vLLM server with 16 engines exposes
// about 1 MiB.
const MaxExpositionBytes = 16 << 20

// Read reads an exposition in the text format, taken at a time.
func (m *Mapping) Read(r io.Reader, at time.Time) ([]Reading, error) {
	bounded := &io.LimitedReader{R: r, N: MaxExpositionBytes + 1}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bounded)
	switch {
	case bounded.N <= 0:
		return nil, fmt.Errorf("exposition is larger than %d bytes", MaxExpositionBytes)
	case err != nil:
		return nil, fmt.Errorf("parse exposition: %w", err)
	}
	started := m.processStart(families)
	for _, way := range m.Ways {
		readings, err := m.readWay(families, way, at, started)
		if err != nil || len(readings) > 0 {
			return readings, err
		}
	}
	return nil, fmt.Errorf("%w: neither %s", ErrNoSeries, strings.Join(m.needed(), " nor "))
}

func (m *Mapping) needed() []string {
	var names []string
	for _, w := range m.Ways {
		if w.Computed.Name != "" {
			names = append(names, w.Computed.Name)
		} else {
			names = append(names, w.Total.Name)
		}
	}
	return names
}

func (m *Mapping) processStart(families map[string]*dto.MetricFamily) time.Time {
	for _, name := range m.Started {
		if f := families[name]; f != nil && len(f.Metric) > 0 {
			if v, ok := counterValue(f.Metric[0]); ok {
				return unix(v)
			}
		}
	}
	return time.Time{}
}

func (m *Mapping) readWay(families map[string]*dto.MetricFamily, way Way, at, started time.Time) ([]Reading, error) {
	total := m.values(families, way.Total)
	computed := m.values(families, way.Computed)
	device := m.values(families, way.Device)
	external := m.values(families, way.External)
	created := m.created(families, way.Total)

	derived := way.Computed.Name == ""
	engines := make(map[string]bool)
	collect := func(values map[string]float64) {
		for engine := range values {
			engines[engine] = true
		}
	}
	if derived {
		// Without a count of hits, zero hits and unknown hits look the same.
		for engine := range total {
			if _, ok := device[engine]; ok {
				engines[engine] = true
			}
		}
	} else {
		// The parts are series of one family, and a client library creates a series
		// when it first counts something: one part there makes the others zero. The
		// comparison with the total would show it if that were wrong.
		collect(computed)
		collect(device)
		collect(external)
	}
	var readings []Reading
	for _, engine := range slices.Sorted(maps.Keys(engines)) {
		r := Reading{Engine: engine, Way: way.Name, Reading: cache.Reading{
			At: at, Started: later(started, created[engine]), Total: -1,
			Tokens: cache.Tokens{Computed: computed[engine], Device: device[engine], External: external[engine]},
		}}
		if derived {
			r.Tokens.Computed = total[engine] - r.Tokens.Hits()
		} else if v, ok := total[engine]; ok {
			r.Total = v
		}
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("engine %q, read by %s: %w", engine, way.Name, err)
		}
		readings = append(readings, r)
	}
	return readings, nil
}

// values gives the series' values by engine.
func (m *Mapping) values(families map[string]*dto.MetricFamily, s Series) map[string]float64 {
	f := counterFamily(families, s.Name)
	if f == nil {
		return nil
	}
	values := make(map[string]float64)
	for _, metric := range f.Metric {
		if s.Label != "" && label(metric, s.Label) != s.Value {
			continue
		}
		if v, ok := counterValue(metric); ok {
			// Series that differ only in labels that the mapping does not know are parts
			// of one count.
			values[m.engine(metric)] += v
		}
	}
	return values
}

// created gives the creation times of the series by engine, the newest of each.
func (m *Mapping) created(families map[string]*dto.MetricFamily, s Series) map[string]time.Time {
	f := families[s.Name+"_created"]
	if f == nil || s.Name == "" {
		return nil
	}
	times := make(map[string]time.Time)
	for _, metric := range f.Metric {
		if v, ok := counterValue(metric); ok {
			engine := m.engine(metric)
			times[engine] = later(times[engine], unix(v))
		}
	}
	return times
}

func (m *Mapping) engine(metric *dto.Metric) string {
	values := make([]string, len(m.Split))
	for i, name := range m.Split {
		values[i] = label(metric, name)
	}
	return strings.Join(values, "/")
}

// counterFamily finds a counter under either spelling of its name. A histogram
// may have the name of a counter (vllm:iteration_tokens_total is one).
func counterFamily(families map[string]*dto.MetricFamily, name string) *dto.MetricFamily {
	if name == "" {
		return nil
	}
	for _, spelling := range []string{name + "_total", name} {
		if f := families[spelling]; f != nil {
			switch f.GetType() {
			case dto.MetricType_COUNTER, dto.MetricType_UNTYPED, dto.MetricType_GAUGE:
				return f
			}
		}
	}
	return nil
}

func counterValue(m *dto.Metric) (float64, bool) {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), true
	}
	return 0, false
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// unix turns seconds since 1970 into a time, zero for what cannot be one.
func unix(seconds float64) time.Time {
	if !(seconds > 0 && seconds < 1e11) {
		return time.Time{}
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
