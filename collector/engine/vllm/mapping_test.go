package vllm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/collector/cache"
	"github.com/evenkeel/evenkeel/collector/engine"
	simulated "github.com/evenkeel/evenkeel/internal/sim/engine"
)

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func read(t *testing.T, exposition string) ([]engine.Reading, error) {
	t.Helper()
	return Mapping().Read(strings.NewReader(exposition), at)
}

func reading(name, way string, started int64, total float64, tokens cache.Tokens) engine.Reading {
	r := engine.Reading{Engine: name, Way: way, Reading: cache.Reading{At: at, Tokens: tokens, Total: total}}
	if started > 0 {
		r.Started = time.Unix(started, 0)
	}
	return r
}

// Each file is what one release or setting of vLLM exposes.
func TestRead(t *testing.T) {
	const model = "deepseek-ai/DeepSeek-V3"
	tests := []struct {
		file string
		want []engine.Reading
		err  string
	}{
		{"by_source.txt", []engine.Reading{
			reading(model+"/0", "prompt_tokens_by_source", 1763985600, 1.2e6, cache.Tokens{Computed: 700000, Device: 400000, External: 100000}),
			reading(model+"/1", "prompt_tokens_by_source", 1763985600, 50000, cache.Tokens{Computed: 50000}),
		}, ""},
		{"queries_hits.txt", []engine.Reading{
			reading(model+"/0", "prefix_cache_queries", 1763985600, -1, cache.Tokens{Computed: 500000, Device: 400000, External: 100000}),
		}, ""},
		{"no_connector.txt", []engine.Reading{
			reading(model+"/0", "prefix_cache_queries", 1763985600, -1, cache.Tokens{Computed: 600000, Device: 400000}),
		}, ""},
		{"gpu_names.txt", []engine.Reading{
			reading(model+"/", "gpu_prefix_cache_queries", 0, -1, cache.Tokens{Computed: 600000, Device: 400000}),
		}, ""},
		{"no_total_suffix.txt", []engine.Reading{
			reading(model+"/0", "prompt_tokens_by_source", 0, 1000, cache.Tokens{Computed: 600, Device: 400}),
		}, ""},
		{"no_cache_metrics.txt", nil, "no usable token series: neither vllm:prompt_tokens_by_source nor vllm:prefix_cache_queries nor vllm:gpu_prefix_cache_queries"},
		{"hits_missing.txt", nil, "no usable token series"},
		{"hits_above_queries.txt", nil, `engine "m/0", read by prefix_cache_queries: computed tokens: -1 cannot be a counter`},
		{"truncated.txt", nil, "parse exposition"},
		{"html.txt", nil, "parse exposition"},
		{"empty.txt", nil, "no usable token series"},
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			content, err := os.ReadFile("testdata/" + test.file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(t, string(content))
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("Read() = %v, want an error with %q", err, test.err)
			}
			if strings.HasPrefix(test.err, "no usable") != errors.Is(err, engine.ErrNoSeries) {
				t.Errorf("Read() = %v: is ErrNoSeries %v", err, errors.Is(err, engine.ErrNoSeries))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Read() differs (-want +got):\n%s", diff)
			}
		})
	}
}

// What is read of an engine is what it served, through a restart too.
func TestReadFollowsAnEngine(t *testing.T) {
	now := at
	server := simulated.New(simulated.Options{Engines: 2, ExternalBlocks: 3000, Now: func() time.Time { return now }})
	ledger := cache.NewLedger(time.Hour)
	var served simulated.Tokens
	last := simulated.Tokens{}
	scrape := func() {
		t.Helper()
		readings, err := Mapping().Read(strings.NewReader(string(server.Exposition())), now)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range readings {
			if err := ledger.Observe(r.Engine, r.Reading); err != nil {
				t.Fatal(err)
			}
		}
	}
	scrape()
	for i := range 20 {
		now = now.Add(10 * time.Second)
		if i == 10 {
			// It serves more than before within the next step, so its counters do not
			// fall: only the start time tells.
			server.Restart()
			last = simulated.Tokens{}
		}
		server.Step(time.Duration(1+i) * time.Second)
		tokens := server.Tokens()
		served.Computed += tokens.Computed - last.Computed
		served.Device += tokens.Device - last.Device
		served.External += tokens.External - last.External
		last = tokens
		scrape()
	}
	want := cache.Tokens{Computed: float64(served.Computed), Device: float64(served.Device), External: float64(served.External)}
	if got := ledger.Total(); got != want {
		t.Errorf("Total() = %+v, want %+v", got, want)
	}
	if got := ledger.Restarts(); got != 2 {
		t.Errorf("Restarts() = %d, want 2: both engines behind the endpoint", got)
	}
	if a := ledger.Window(now); a.Gap != 0 || !a.Checked {
		t.Errorf("Window() = %+v, want no gap, checked", a)
	}
}

func TestReadBoundsTheExposition(t *testing.T) {
	line := "# " + strings.Repeat("x", 1022) + "\n"
	if _, err := read(t, strings.Repeat(line, engine.MaxExpositionBytes/len(line)+1)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Read() of more than %d bytes = %v, want a refusal", engine.MaxExpositionBytes, err)
	}
}

// Whatever is exposed, a reading is one that a ledger takes.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"by_source", "queries_hits", "gpu_names", "hits_above_queries", "truncated"} {
		content, err := os.ReadFile(fmt.Sprintf("testdata/%s.txt", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		readings, err := Mapping().Read(strings.NewReader(string(content)), at)
		if err != nil && readings != nil {
			t.Errorf("Read() gives %v and %v", readings, err)
		}
		for _, r := range readings {
			if err := cache.NewLedger(time.Minute).Observe(r.Engine, r.Reading); err != nil {
				t.Errorf("reading %+v: %v", r, err)
			}
		}
	})
}
