// Package snapshot makes what the agent knows at one moment into metrics: once
// per interval, rendered once, served from memory and given to remote write.
//
// It decides the names and labels of the agent's metrics. It refuses to ask a
// source anything: what it shows is what it was given, so that /metrics answers
// in its usual time while a device hangs.
package snapshot

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// State is what the agent knows at one moment.
type State struct {
	Time      time.Time
	Findings  []fault.Finding
	Sources   []Source
	Processes []fault.Process
}

// Source is what one source can vouch for.
type Source struct {
	Name     string
	Coverage fault.CoverageState
	// Age is how long ago the source last answered; negative if never.
	Age time.Duration
	// Readings are the source's current ones.
	Readings []source.Reading
}

// Snapshot holds the latest rendering. Take may be called by one goroutine,
// ServeHTTP by any number.
type Snapshot struct {
	collector *collector
	registry  *prometheus.Registry
	rendered  atomic.Pointer[rendering]
}

// rendering is one page of metrics, as it is sent.
type rendering struct {
	plain, compressed []byte
}

// New makes a snapshot that renders the registry's own metrics together with the
// states that it is given. The labels cluster and node are put on what it makes
// of a state; the registry's own metrics bring theirs along.
func New(cluster, node string, registry *prometheus.Registry) (*Snapshot, error) {
	s := &Snapshot{collector: newCollector(cluster, node), registry: registry}
	if err := registry.Register(s.collector); err != nil {
		return nil, fmt.Errorf("register the snapshot: %w", err)
	}
	return s, nil
}

// Take renders a state and shows it from now on. It gives the families for
// remote write. An error says which metrics had to be left out; the others are
// there all the same.
func (s *Snapshot) Take(state State) ([]*dto.MetricFamily, error) {
	s.collector.state.Store(&state)
	families, gatherErr := s.registry.Gather()
	page, err := render(families)
	if err != nil {
		return families, err
	}
	s.rendered.Store(page)
	if gatherErr != nil {
		return families, fmt.Errorf("gather metrics: %w", gatherErr)
	}
	return families, nil
}

func render(families []*dto.MetricFamily) (*rendering, error) {
	var plain, compressed bytes.Buffer
	encoder := expfmt.NewEncoder(&plain, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, fmt.Errorf("render %s: %w", family.GetName(), err)
		}
	}
	z, err := gzip.NewWriterLevel(&compressed, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("compress metrics: %w", err)
	}
	if _, err := z.Write(plain.Bytes()); err != nil {
		return nil, fmt.Errorf("compress metrics: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress metrics: %w", err)
	}
	return &rendering{plain: plain.Bytes(), compressed: compressed.Bytes()}, nil
}

// ServeHTTP answers with the latest rendering in the Prometheus text format,
// which every scraper takes, compressed where the scraper says that it may be.
func (s *Snapshot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page := s.rendered.Load()
	if page == nil {
		http.Error(w, "no snapshot has been taken yet", http.StatusServiceUnavailable)
		return
	}
	body := page.plain
	header := w.Header()
	header.Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	header.Set("Vary", "Accept-Encoding")
	if acceptsGzip(r.Header) {
		body = page.compressed
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the scraper is gone if this fails
}

// acceptsGzip reads Accept-Encoding: gzip, or anything, unless at weight zero.
func acceptsGzip(h http.Header) bool {
	anything := false
	for _, value := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(value, ",") {
			name, parameters, _ := strings.Cut(part, ";")
			accepted := true
			if q, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
				weight, err := strconv.ParseFloat(q, 64)
				accepted = err == nil && weight > 0
			}
			switch strings.TrimSpace(name) {
			case "gzip":
				return accepted
			case "*":
				anything = accepted
			}
		}
	}
	return anything
}
