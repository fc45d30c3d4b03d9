package checkpoint

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/internal/sim/trainer"
	"github.com/google/go-cmp/cmp"
)

// trainerConfig has, in a child process of a test, the trainer's configuration.
const trainerConfig = "EVENKEEL_TRAINER_CONFIG"

func TestMain(m *testing.M) {
	config := os.Getenv(trainerConfig)
	if config == "" {
		os.Exit(m.Run())
	}
	c, err := trainer.DecodeConfig(strings.NewReader(config))
	if err == nil {
		c.Events = os.Stdout
		err = trainer.Run(context.Background(), c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func job(dir string) trainer.Config {
	c := trainer.Config{
		Job: "42", Seed: 3, Dim: 8, TokensPerRank: 8, Steps: 60,
		CheckpointDir: filepath.Join(dir, "checkpoints"), CheckpointEvery: 1, LossLog: filepath.Join(dir, "loss.jsonl"),
	}
	for range 4 {
		c.Ranks = append(c.Ranks, trainer.Rank{Node: "node"})
	}
	return c
}

// TestTrainerIsKilledAndResumed kills trainer processes at random moments and
// resumes from the checkpoint chosen, until the job is done. Losses must be
// those of a run that nothing disturbed.
func TestTrainerIsKilledAndResumed(t *testing.T) {
	dir := t.TempDir()
	c := job(dir)
	if err := os.Mkdir(c.CheckpointDir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := store(t, dir)
	random := rand.New(rand.NewPCG(5, 6))
	for range 8 {
		resume(t, s, &c)
		startAndKill(t, c, 1+random.IntN(4))
	}
	resume(t, s, &c)
	if c.Resume == "" {
		t.Fatal("no whole checkpoint after 8 runs")
	}
	if err := trainer.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want, err := trainer.Reference(t.Context(), c, c.Steps)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, losses(t, c.LossLog)); diff != "" {
		t.Errorf("losses (-undisturbed +killed and resumed):\n%s", diff)
	}
}

// resume makes the job start from the checkpoint chosen.
func resume(t *testing.T, s *Store, c *trainer.Config) {
	t.Helper()
	choice, err := s.Choose(t.Context(), c.CheckpointDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, refused := range choice.Refused {
		t.Logf("refused %s: %s", filepath.Base(refused.Path), refused.Reason)
	}
	c.Resume = choice.Path
}

// startAndKill runs the trainer as a process and kills it after it told of so
// many events.
func startAndKill(t *testing.T, c trainer.Config, events int) {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), trainerConfig+"="+string(config))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; n < events && lines.Scan(); n++ {
	}
	_ = child.Process.Kill() // it may have ended
	_ = child.Wait()
}

// losses gives the loss of each step; the later line of a step counts.
func losses(t *testing.T, path string) []float64 {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []float64
	for line := range bytes.Lines(content) {
		var l trainer.LossLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("loss log line %q: %v", line, err)
		}
		all = append(all[:min(len(all), l.Step-1)], l.Loss)
	}
	return all
}

// TestTrainerTearsCheckpoint has the newest checkpoint torn by the trainer.
func TestTrainerTearsCheckpoint(t *testing.T) {
	c := job(t.TempDir())
	c.Steps, c.CheckpointEvery, c.TearAt = 15, 5, 15
	if err := trainer.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	choice, err := store(t, c.CheckpointDir).Choose(t.Context(), c.CheckpointDir)
	if err != nil || choice.Step != 10 || len(choice.Refused) != 1 || !strings.Contains(choice.Refused[0].Reason, `torn: shard "__3_0.distcp" has`) {
		t.Errorf("Choose = %+v, %v, want step 10 and step 15 refused as torn", choice, err)
	}
	report, err := Verify(t.Context(), choice.Path)
	if err != nil || report.State != Whole || report.Shards != 4 || report.Entries != 1+2*(3+2*4) {
		t.Errorf("Verify = %+v, %v, want whole with 4 shards and 23 entries", report, err)
	}
}
