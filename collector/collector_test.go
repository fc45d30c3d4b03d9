package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/cache"
	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/engine"
	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/golden"
)

// fleet is a replica of eight ranks on two nodes as the test wants it to be.
type fleet struct {
	load  [8]int64
	times [8]float64
	// disputed makes the agents see rank 7 elsewhere.
	disputed bool
	// unseen makes no agent see rank 7.
	unseen   bool
	findings []fault.Finding
	clock    [8]float64 // MHz
	storeErr error
	asked    [][]string
}

func newFleet() *fleet {
	f := &fleet{}
	for i := range 8 {
		f.load[i], f.times[i], f.clock[i] = 1000, 1, 1980
	}
	return f
}

func device(rank int) string     { return fmt.Sprintf("GPU-%d", rank) }
func nodeOf(rank int) string     { return fmt.Sprintf("n%d", rank/4) }
func (f *fleet) nodes() []string { return []string{"n0", "n1"} }

func (f *fleet) post(generation uint64) *expert.Load {
	l := &expert.Load{
		Schema: 1, Cluster: "c", Model: "m", Replica: "r0", Job: "42", WindowSeconds: 10, Generation: generation, TopK: 8,
		Counts: expert.Counts{f.load[:]}, Placement: expert.Placement{nil},
	}
	for rank := range 8 {
		l.Placement[0] = append(l.Placement[0], []int32{int32(rank)})
		l.Ranks = append(l.Ranks, expert.Rank{Rank: rank, Node: nodeOf(rank), DeviceUUID: device(rank), Seconds: f.times[rank]})
	}
	return l
}

// Nodes implements nodeSource.
func (f *fleet) Nodes(context.Context) (*fault.NodeList, error) {
	list := &fault.NodeList{Cluster: "c"}
	for _, name := range f.nodes() {
		list.Nodes = append(list.Nodes, fault.NodeStatus{Node: name, State: fault.OK, ReportAgeSeconds: 1})
	}
	for rank := range 8 {
		n := &list.Nodes[rank/4]
		if f.unseen && rank == 7 {
			continue
		}
		uuid := device(rank)
		if f.disputed && rank == 7 {
			uuid = "GPU-70"
		}
		n.Jobs = append(n.Jobs, fault.Process{Job: "42", Rank: new(rank), DeviceUUID: uuid, DeviceIndex: rank % 4})
	}
	for _, finding := range f.findings {
		n := &list.Nodes[1]
		finding.Subject.Node = n.Node
		n.Findings = append(n.Findings, finding)
		n.State = fault.Bad
	}
	return list, nil
}

// Devices implements deviceSource.
func (f *fleet) Devices(_ context.Context, uuids []string, _ time.Time) (map[string]correlate.Device, error) {
	f.asked = append(f.asked, uuids)
	devices := make(map[string]correlate.Device)
	for rank := range 8 {
		for _, uuid := range uuids {
			if uuid == device(rank) {
				devices[uuid] = correlate.Device{SMClock: &f.clock[rank], MaxSMClock: new(1980.0), TemperatureCelsius: new(60.0), DoubleBitECC: new(0.0)}
			}
		}
	}
	return devices, f.storeErr
}

// Processes implements deviceSource.
func (f *fleet) Processes(context.Context, []string, time.Time) ([]correlate.Sighting, error) {
	return nil, f.storeErr
}

func testCollector(t *testing.T, f *fleet) *Collector {
	t.Helper()
	config := DefaultConfig()
	config.Cluster = "c"
	config.Access.Insecure = true
	c, err := New(&config, prometheus.NewRegistry(), "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		c.nodes, c.judge.devices = f, f
	}
	return c
}

// settle accepts the fleet's load and waits for the verdicts, by rank.
func settle(t *testing.T, f *fleet) (ranks []api.Rank) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := testCollector(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		if err := c.Accept(f.post(1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ranks = c.Replicas().Replicas[0].Ranks
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	return ranks
}

func TestVerdicts(t *testing.T) {
	thermal := func(index int) fault.Finding {
		return fault.Finding{Kind: fault.GPUThermal, State: fault.Bad, Severity: fault.Warning, Subject: fault.Subject{Device: fault.DeviceGPU, Index: new(index)}}
	}
	tests := []struct {
		name   string
		change func(*fleet)
		want   correlate.Word // on rank 7; all others are normal
		reason string
	}{
		{"nothing", func(*fleet) {}, correlate.Normal, ""},
		{"busy", func(f *fleet) { f.load[7], f.times[7] = 2000, 2 }, correlate.Busy, "the load accounts for it"},
		{"sick: a finding", func(f *fleet) { f.times[7] = 2; f.findings = []fault.Finding{thermal(3)} }, correlate.Sick, "nvidia.gpu.thermal"},
		{"near miss: a finding about its neighbour", func(f *fleet) { f.times[7] = 2; f.findings = []fault.Finding{thermal(2)} }, correlate.Unknown, "nothing is established"},
		{"sick: its clock", func(f *fleet) { f.times[7], f.clock[7] = 2, 990 }, correlate.Sick, "SM clock 990 MHz is 50 % of its maximum"},
		{"near miss: its clock is like its peers'", func(f *fleet) { f.times[7], f.clock[7] = 2, 1900 }, correlate.Unknown, "nothing is established"},
		{"both", func(f *fleet) { f.load[7], f.times[7], f.clock[7] = 2000, 4, 990 }, correlate.Both, "part of it"},
		{"the store is silent", func(f *fleet) { f.times[7], f.clock[7], f.storeErr = 2, 990, errors.New("no route") }, correlate.Unknown, "no route"},
		{"the store is silent, the node is not", func(f *fleet) {
			f.times[7], f.storeErr, f.findings = 2, errors.New("no route"), []fault.Finding{thermal(3)}
		}, correlate.Sick, "nvidia.gpu.thermal"},
		{"nobody saw the rank there", func(f *fleet) { f.times[7], f.clock[7], f.unseen = 2, 990, true }, correlate.Unknown, "no agent reports rank 7 of job 42"},
		{"disputed place", func(f *fleet) { f.load[7], f.times[7], f.disputed = 2000, 2, true }, correlate.Unknown, "agent of n1 on n1 GPU-70"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFleet()
			test.change(f)
			ranks := settle(t, f)
			for _, r := range ranks {
				want := correlate.Normal
				if r.Rank == 7 {
					want = test.want
				}
				if r.Verdict == nil || r.Verdict.Word != want {
					t.Errorf("rank %d: %+v, want %s", r.Rank, r.Verdict, want)
				}
			}
			if reasons := strings.Join(ranks[7].Verdict.Reasons, "\n"); !strings.Contains(reasons, test.reason) {
				t.Errorf("reasons %q, want %q among them", reasons, test.reason)
			}
		})
	}
}

// The store is asked about slow ranks and a few peers, and about nothing when
// nothing is slow.
func TestStoreIsAskedNarrowly(t *testing.T) {
	f := newFleet()
	settle(t, f)
	if len(f.asked) != 0 {
		t.Errorf("no rank is slow, yet the store was asked about %v", f.asked)
	}
	f = newFleet()
	f.times[7] = 2
	settle(t, f)
	want := [][]string{{"GPU-0", "GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5", "GPU-6", "GPU-7"}}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Errorf("devices asked about differ (-want +got):\n%s", diff)
	}
}

// A verdict that comes after the next window must not bring the old one back.
func TestLateVerdict(t *testing.T) {
	f := newFleet()
	c := testCollector(t, f)
	key := replicaKey{"m", "r0"}
	var windows []*window
	for generation := range uint64(2) {
		if err := c.Accept(f.post(generation)); err != nil {
			t.Fatal(err)
		}
		windows = append(windows, c.replicas.window(key, time.Now()))
	}
	c.replicas.judged(key, windows[0], c.judge.verdicts(t.Context(), windows[0], time.Now()))
	if got := c.replicas.window(key, time.Now()); got != windows[1] {
		t.Errorf("after a late verdict the window of generation %d is held, want 1", got.load.generation)
	}
}

// Health that was heard too long ago is unknown: the same slow rank that was
// sick is no longer called so.
func TestStaleHealthIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.times[7] = 2
		f.findings = []fault.Finding{{Kind: fault.GPUThermal, State: fault.Bad, Severity: fault.Warning, Subject: fault.Subject{Device: fault.DeviceGPU, Index: new(3)}}}
		c := testCollector(t, f)
		c.judge.devices = nil
		list, _ := f.Nodes(t.Context())
		c.judge.learn(list, time.Now())
		word := func() correlate.Word {
			return c.judge.verdicts(t.Context(), measured(f.post(1), 1, time.Now()), time.Now()).verdicts[7].Word
		}
		time.Sleep(29 * time.Second) // and the reports were 1 s old
		if got := word(); got != correlate.Sick {
			t.Errorf("after 29 s: %s, want sick", got)
		}
		time.Sleep(time.Millisecond)
		if got := word(); got != correlate.Unknown {
			t.Errorf("after more: %s, want unknown", got)
		}
	})
}

func TestGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		c := testCollector(t, f)
		if err := c.Accept(f.post(7)); err != nil {
			t.Fatal(err)
		}
		err := c.Accept(f.post(6))
		if stale, ok := errors.AsType[*api.StaleGeneration](err); !ok || stale.Held != 7 {
			t.Errorf("an older generation: %v, want it refused for generation 7", err)
		}
		moved := f.post(7)
		moved.Placement[0][0] = []int32{1}
		if err := c.Accept(moved); !errors.Is(err, api.ErrPlacement) {
			t.Errorf("another placement of the same generation: %v, want ErrPlacement", err)
		}
		moved.Generation = 8
		if err := c.Accept(moved); err != nil {
			t.Errorf("another placement of a new generation: %v, want it taken", err)
		}
		time.Sleep(time.Minute)
		if err := c.Accept(f.post(1)); err == nil {
			t.Error("an older generation while the last window holds is taken")
		}
		time.Sleep(time.Millisecond)
		if err := c.Accept(f.post(1)); err != nil {
			t.Errorf("a restarted sender, after the last window became stale: %v, want it taken", err)
		}
	})
}

func TestAcceptRefuses(t *testing.T) {
	f := newFleet()
	c := testCollector(t, f)
	c.config.ExpertLoad.MaxReplicas = 1
	foreign := f.post(1)
	foreign.Cluster = "d"
	if err := c.Accept(foreign); err == nil || !strings.Contains(err.Error(), "cluster:") {
		t.Errorf("a post of another cluster: %v, want it refused", err)
	}
	if err := c.Accept(f.post(1)); err != nil {
		t.Fatal(err)
	}
	second := f.post(1)
	second.Replica = "r1"
	if err := c.Accept(second); !errors.Is(err, api.ErrFull) {
		t.Errorf("one replica too many: %v, want ErrFull", err)
	}
}

func exposition(t *testing.T, c *Collector) string {
	t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "evenkeel_") {
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.String()
}

func scrape(target engine.Target, at time.Time, tokens cache.Tokens) engine.Result {
	return engine.Result{Target: target, At: at, Readings: []engine.Reading{{Engine: "0", Way: "w", Reading: cache.Reading{At: at, Tokens: tokens, Total: tokens.Queries() + 1}}}}
}

func TestExposition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		f.times[6], f.clock[6] = 3, 990
		f.load[7], f.times[7] = 2000, 2
		c := testCollector(t, f)
		list, _ := f.Nodes(t.Context())
		c.judge.learn(list, time.Now())
		c.metrics.source("nodes", true, time.Now())
		c.metrics.targetFile(true)
		good := engine.Target{Address: "10.0.0.1:8000", URL: "http://10.0.0.1:8000/metrics", Model: "m", Replica: "r0"}
		bad := engine.Target{Address: "10.0.0.2:8000", URL: "http://10.0.0.2:8000/metrics", Model: "m", Replica: "r0"}
		c.replicas.retarget([]engine.Target{good, bad})
		c.scraped(scrape(good, time.Now(), cache.Tokens{}))
		c.scraped(engine.Result{Target: bad, At: time.Now(), Err: fmt.Errorf("scrape: %w", engine.ErrNoSeries)})
		time.Sleep(15 * time.Second)
		c.scraped(scrape(good, time.Now(), cache.Tokens{Computed: 600, Device: 300, External: 100}))
		if err := c.Accept(f.post(7)); err != nil {
			t.Fatal(err)
		}
		c.Refused(api.RefusedGeneration)
		key := replicaKey{"m", "r0"}
		w := c.replicas.window(key, time.Now())
		c.replicas.judged(key, w, c.judge.verdicts(t.Context(), w, time.Now()))
		time.Sleep(2 * time.Second)
		golden.Check(t, "testdata/exposition.txt", []byte(exposition(t, c)))

		problems, err := testutil.GatherAndLint(c.registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("GatherAndLint() = %v, %v, want nothing to complain of", problems, err)
		}

		// What is no longer known is no longer there.
		time.Sleep(time.Minute)
		after := exposition(t, c)
		for _, gone := range []string{"evenkeel_moe_", "evenkeel_rank_verdict"} {
			if strings.Contains(after, gone) {
				t.Errorf("series of %s are there after the window became stale", gone)
			}
		}
		time.Sleep(5 * time.Minute)
		if after := exposition(t, c); strings.Contains(after, "evenkeel_kv_cache_") || !strings.Contains(after, "evenkeel_collector_scrape_up") {
			t.Errorf("after a window without a scrape the ledger must be gone and the scrapes not:\n%s", after)
		}
		c.replicas.retarget(nil)
		if after := exposition(t, c); strings.Contains(after, "evenkeel_collector_scrape_up") {
			t.Errorf("a dropped target is still there:\n%s", after)
		}
	})
}

// The number of series does not follow the number of experts.
func TestCardinality(t *testing.T) {
	c := testCollector(t, nil)
	l := &expert.Load{Schema: 1, Cluster: "c", Model: "m", Replica: "r0", WindowSeconds: 10, TopK: 8}
	for rank := range 320 {
		l.Ranks = append(l.Ranks, expert.Rank{Rank: rank, Node: fmt.Sprintf("n%d", rank/8), Seconds: 1})
	}
	for layer := range 58 {
		counts, placement := make([]int64, 256), make([][]int32, 256)
		for e := range counts {
			counts[e], placement[e] = int64(layer+e), []int32{int32(e)}
		}
		l.Counts, l.Placement = append(l.Counts, counts), append(l.Placement, placement)
	}
	if err := c.Accept(l); err != nil {
		t.Fatal(err)
	}
	key := replicaKey{"m", "r0"}
	w := c.replicas.window(key, time.Now())
	c.replicas.judged(key, w, c.judge.verdicts(t.Context(), w, time.Now()))
	count := func() int {
		return strings.Count(exposition(t, c), `replica="r0"`)
	}
	if got := count(); got > 1000 {
		t.Errorf("%d series for 14,848 experts on 320 ranks, want at most 1000", got)
	}
	c.config.ExpertLoad.RanksExported = 10
	if got, want := count(), 58+2+8+3+2*10; got != want {
		t.Errorf("%d series with 10 ranks exported, want %d", got, want)
	}
}

// The example of the documentation is taken as it stands.
func TestDocumentedExample(t *testing.T) {
	content, err := os.ReadFile("../docs/expert-load.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(content), "```json\n")
	example, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/expert-load.md holds no JSON example")
	}
	c := testCollector(t, nil)
	c.config.Cluster = "example"
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/expert-load", strings.NewReader(example)))
	if w.Code != http.StatusNoContent {
		t.Fatalf("the example is answered with %d %s, want 204", w.Code, w.Body)
	}
	// The message that the documentation quotes.
	broken := strings.Replace(example, "[388, 1210, 0, 2]", "[388, 1210, 0, -2]", 1)
	w = httptest.NewRecorder()
	c.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/expert-load", strings.NewReader(broken)))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "counts[1][3]: must be a non-negative integer, got ") {
		t.Errorf("a negative count is answered with %d %s", w.Code, w.Body)
	}
}
