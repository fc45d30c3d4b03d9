package trainer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/internal/sim/trainer/dcp"
	"github.com/google/go-cmp/cmp"
)

// childConfig has, in a child process of a test, the configuration to run with.
const childConfig = "EVENKEEL_TRAINER_CONFIG"

func TestMain(m *testing.M) {
	path := os.Getenv(childConfig)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := runChild(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runChild(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c, err := DecodeConfig(bytes.NewReader(content))
	if err != nil {
		return err
	}
	c.Events = os.Stdout
	return Run(context.Background(), c)
}

// config is a small job of the given number of ranks, two to a node.
func config(ranks int) Config {
	c := Config{Job: "42", Seed: 7, Dim: 8, TokensPerRank: 8}
	for r := range ranks {
		c.Ranks = append(c.Ranks, Rank{Node: fmt.Sprintf("node-%d", r/2), DeviceUUID: fmt.Sprintf("GPU-%d", r)})
	}
	return c
}

func reference(t *testing.T, c Config, steps int) []float64 {
	t.Helper()
	losses, err := Reference(t.Context(), c, steps)
	if err != nil {
		t.Fatal(err)
	}
	return losses
}

// readLosses gives the loss of each step by the log, from step 1 on; the later
// line counts.
func readLosses(t *testing.T, path string) []float64 {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var losses []float64
	for line := range bytes.Lines(content) {
		var l LossLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("loss log line %q: %v", line, err)
		}
		if l.Step > len(losses)+1 {
			t.Fatalf("loss log has step %d after %d", l.Step, len(losses))
		}
		losses = append(losses[:l.Step-1], l.Loss)
	}
	return losses
}

func TestLossFalls(t *testing.T) {
	losses := reference(t, config(4), 200)
	if first, last := losses[0], losses[199]; !(last < first/4) {
		t.Errorf("loss went from %v to %v in 200 steps, want it to fall to less than a quarter", first, last)
	}
}

// TestGradients compares each kind of parameter's first update with the slope
// of the loss.
func TestGradients(t *testing.T) {
	c := config(2)
	c.Experts = topK // both are always chosen: no jump in the loss where a choice changes
	c.fillDefaults()
	lossWith := func(change func(*model, float32), by float32) float64 {
		m := newModel(&c)
		change(m, by)
		return newWorld(&c, m).step(1, Causes{})
	}
	before, after := newModel(&c), newModel(&c)
	newWorld(&c, after).step(1, Causes{})
	const h = 1e-2
	for _, i := range []int{0, 5, 9, 15} {
		for l := range c.Layers {
			parameters := map[string]func(m *model) []float32{
				"router": func(m *model) []float32 { return m.layers[l].router },
				"expert": func(m *model) []float32 { return m.layers[l].experts },
			}
			for name, of := range parameters {
				set := func(m *model, by float32) { of(m)[i] += by }
				// The gradient is that of the loss summed over the model's width.
				slope := (lossWith(set, h) - lossWith(set, -h)) / (2 * h) * float64(c.Dim)
				got := float64(of(before)[i]-of(after)[i]) / learningRate
				if math.Abs(got-slope) > 0.02+0.05*math.Abs(slope) {
					t.Errorf("gradient by %s[%d] of layer %d = %v, slope of the loss is %v", name, i, l, got, slope)
				}
			}
		}
	}
}

// TestKilledAndResumed kills trainer processes at random moments, among them
// those in which a checkpoint is being written, and resumes from the newest
// checkpoint that can be loaded.
func TestKilledAndResumed(t *testing.T) {
	dir := t.TempDir()
	c := config(4)
	c.Steps, c.CheckpointEvery = 60, 3
	c.CheckpointDir, c.LossLog = filepath.Join(dir, "checkpoints"), filepath.Join(dir, "loss.jsonl")
	random := rand.New(rand.NewPCG(1, 2))
	for kill := range 6 {
		c.Resume, _ = newest(t, c.CheckpointDir)
		runAndKill(t, c, 1+random.IntN(4))
		t.Logf("killed run %d, started from %q", kill, c.Resume)
	}
	c.Resume, _ = newest(t, c.CheckpointDir)
	if c.Resume == "" {
		t.Fatal("no checkpoint to resume from after 6 runs")
	}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reference(t, c, c.Steps), readLosses(t, c.LossLog)); diff != "" {
		t.Errorf("losses (-undisturbed +killed and resumed):\n%s", diff)
	}
}

// runAndKill starts a trainer process and kills it after it told of so many
// events, or lets it end.
func runAndKill(t *testing.T, c Config, events int) {
	t.Helper()
	content, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trainer.json")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childConfig+"="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(out)
	for range events {
		var e Event
		if decoder.Decode(&e) != nil {
			break
		}
	}
	_ = child.Process.Kill() // it may have ended
	_ = child.Wait()
}

// newest gives the newest checkpoint that can be loaded, empty for none.
func newest(t *testing.T, dir string) (path string, step int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "step-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		c, err := dcp.Load(p)
		if err != nil {
			continue
		}
		if s := int(c.Objects[trainState]["step"]); s > step {
			path, step = p, s
		}
	}
	return path, step
}

func TestResumeRefusesTorn(t *testing.T) {
	dir := t.TempDir()
	c := config(2)
	c.Steps, c.CheckpointEvery, c.CheckpointDir, c.TearAt = 4, 1, dir, 3
	var events bytes.Buffer
	c.Events = &events
	if err := os.WriteFile(filepath.Join(dir, tearFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for step, torn := range []bool{1: true, 2: false, 3: true, 4: false} {
		if step == 0 {
			continue
		}
		c.Resume = filepath.Join(dir, fmt.Sprintf("step-%d", step))
		c.Steps, c.CheckpointEvery = 5, 0
		if err := Run(t.Context(), c); (err != nil) != torn {
			t.Errorf("Run from step %d: error = %v, want one: %v", step, err, torn)
		}
	}
	if n := strings.Count(events.String(), "did not reach the disk"); n != 2 {
		t.Errorf("events tell of %d torn checkpoints, want 2:\n%s", n, &events)
	}
}

func TestRunStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := config(2)
	c.StepsPerSecond = 1
	if err := Run(ctx, c); err != nil {
		t.Errorf("Run after its context ended: %v", err)
	}
}

// load gives how many tokens each rank's experts got and for how long each rank
// computed, over some steps.
func load(t *testing.T, causes Causes) (tokens []int64, w *world) {
	t.Helper()
	c := config(4)
	c.Dim, c.TokensPerRank = 32, 32
	c.fillDefaults()
	w = newWorld(&c, newModel(&c))
	for step := range 30 {
		w.step(step+1, causes)
	}
	tokens = make([]int64, w.ranks)
	for _, layer := range w.counts {
		for e, n := range layer {
			tokens[e/w.owned] += n
		}
	}
	return tokens, w
}

func TestHotExpertIsMoreWork(t *testing.T) {
	const hotRank = 1
	tokens, w := load(t, Causes{Hot: &Hot{Layer: -1, Expert: 2, Share: 0.9}})
	if got, others := tokens[hotRank], slices.Max([]int64{tokens[0], tokens[2], tokens[3]}); got < others*3/2 {
		t.Errorf("tokens by rank with a hot expert on rank %d = %v, want half as many again as any other", hotRank, tokens)
	}
	if slices.Max(w.busy) != w.busy[hotRank] {
		t.Errorf("computing time by rank with a hot expert on rank %d = %v, want it the longest", hotRank, w.busy)
	}
}

func TestSlowRankIsNoMoreWork(t *testing.T) {
	const slowRank = 2
	even, _ := load(t, Causes{})
	tokens, w := load(t, Causes{Slow: map[int]int{slowRank: 8}})
	if diff := cmp.Diff(even, tokens); diff != "" {
		t.Errorf("tokens by rank (-even +slow):\n%s", diff)
	}
	if slices.Max(w.busy) != w.busy[slowRank] {
		t.Errorf("computing time by rank with rank %d slow = %v, want it the longest", slowRank, w.busy)
	}
}

func TestSlowRankChangesNoLoss(t *testing.T) {
	dir := t.TempDir()
	c := config(4)
	c.Steps, c.LossLog, c.CausesPath = 5, filepath.Join(dir, "loss.jsonl"), filepath.Join(dir, "causes.json")
	if err := os.WriteFile(c.CausesPath, []byte(`{"slow":{"1":4}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reference(t, c, 5), readLosses(t, c.LossLog)); diff != "" {
		t.Errorf("losses (-undisturbed +slow rank):\n%s", diff)
	}
}

func TestReadCauses(t *testing.T) {
	c := config(4)
	c.fillDefaults()
	tests := []struct{ content, want string }{
		{`{}`, ""},
		{`{"hot":{"layer":1,"expert":7,"share":1}}`, ""},
		{`{"hot":{"layer":2,"expert":7,"share":1}}`, "there is no layer 2"},
		{`{"hot":{"layer":-1,"expert":8,"share":1}}`, "there is no expert 8"},
		{`{"hot":{"layer":0,"expert":7,"share":1.5}}`, "must be from 0 to 1"},
		{`{"slow":{"3":2}}`, ""},
		{`{"slow":{"4":2}}`, "rank 4"},
		{`{"slow":{"3":0}}`, "factor 0"},
		{`{`, "unexpected end"},
	}
	for _, test := range tests {
		path := filepath.Join(t.TempDir(), "causes.json")
		if err := os.WriteFile(path, []byte(test.content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := readCauses(path, &c)
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("readCauses(%s) error = %v, want one with %q", test.content, err, test.want)
		}
	}
	if got, err := readCauses(filepath.Join(t.TempDir(), "missing"), &c); err != nil || got.Hot != nil || got.Slow != nil {
		t.Errorf("readCauses of a missing file = %+v, %v, want none", got, err)
	}
}

func TestDecodeConfig(t *testing.T) {
	tests := []struct{ content, want string }{
		{`{"ranks":[{"node":"a"},{"node":"b"},{"node":"c"}]}`, ""},
		{`{"ranks":[]}`, "ranks: must be from 1"},
		{`{"ranks":[{},{}],"experts":3}`, "experts: must be a multiple of the 2 ranks"},
		{`{"ranks":[{}],"steps":-1}`, "steps: must not be negative"},
		{`{"ranks":[{}],"steps_per_second":-1}`, "steps_per_second"},
		{`{"ranks":[{}],"checkpoint_every":5}`, "needs checkpoint_dir"},
		{`{"ranks":[{}],"dim":513}`, "dim: must be from 1 to 512"},
		{`{"ranks":[{}],"dim":512}`, ""},
		{`{"ranks":[{}],"expert_load":{"window_seconds":-1}}`, "expert_load.window_seconds"},
		{`{"rank":[{}]}`, "unknown field"},
	}
	for _, test := range tests {
		c, err := DecodeConfig(strings.NewReader(test.content))
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("DecodeConfig(%s) error = %v, want one with %q", test.content, err, test.want)
		}
		if n := len(c.Ranks); err == nil && (c.Experts < 8 || c.Experts%n != 0) {
			t.Errorf("DecodeConfig(%s) has %d experts for %d ranks", test.content, c.Experts, n)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	c := config(8)
	c.Dim, c.TokensPerRank = 0, 0
	c.fillDefaults()
	w := newWorld(&c, newModel(&c))
	step := 0
	for b.Loop() {
		step++
		w.step(step, Causes{})
	}
}
