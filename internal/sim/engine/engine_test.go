package engine

import (
	"bytes"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/evenkeel/evenkeel/internal/golden"
)

var clock = func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

func hitRatio(t Tokens) float64 {
	return float64(t.Device+t.External) / float64(t.Computed+t.Device+t.External)
}

func minus(a, b Tokens) Tokens {
	return Tokens{a.Computed - b.Computed, a.Device - b.Device, a.External - b.External}
}

// The golden file is what a scrape sees.
func TestExposition(t *testing.T) {
	s := New(Options{Engines: 2, ExternalBlocks: 20_000, Now: clock})
	s.Step(30 * time.Second)
	got := s.Exposition()
	golden.Check(t, "testdata/exposition.txt", got)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	h := families["vllm:time_to_first_token_seconds"].Metric[0].Histogram
	if got, want := h.GetSampleCount(), uint64(600); got != want {
		t.Errorf("30 s at 20 requests a second: %d first tokens, want %d", got, want)
	}
}

func TestHitRateFollowsTheCache(t *testing.T) {
	served := func(o Options) Tokens {
		s := New(o)
		s.Step(60 * time.Second)
		return s.Tokens()
	}
	small, large := served(Options{CacheBlocks: 500}), served(Options{CacheBlocks: 20_000})
	if hitRatio(small) >= hitRatio(large) {
		t.Errorf("hit ratio %.3f with a small cache, %.3f with a large one", hitRatio(small), hitRatio(large))
	}
	connected := served(Options{CacheBlocks: 500, ExternalBlocks: 20_000})
	if connected.External == 0 || small.External != 0 {
		t.Errorf("external tokens %d with a connector, %d without", connected.External, small.External)
	}
	if hitRatio(connected) <= hitRatio(small) {
		t.Errorf("hit ratio %.3f with a connector, %.3f without", hitRatio(connected), hitRatio(small))
	}
}

func TestRestartIsCold(t *testing.T) {
	s := New(Options{CacheBlocks: 20_000})
	s.Step(60 * time.Second)
	before := s.Tokens()
	s.Step(5 * time.Second)
	warm := hitRatio(minus(s.Tokens(), before))
	s.Restart()
	if got := s.Tokens(); got != (Tokens{}) {
		t.Fatalf("Tokens() after Restart = %+v, want zero", got)
	}
	s.Step(5 * time.Second)
	if cold := hitRatio(s.Tokens()); cold >= warm {
		t.Errorf("hit ratio %.3f in the first 5 s after a restart, %.3f before it", cold, warm)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.0", 1: "1.0", 0.25: "0.25", 123456: "123456.0", 1234567: "1.234567e+06", 2e6: "2e+06", 1763985600.5: "1.7639856005e+09"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
}
