package demo

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Kill -9 of any one daemon at a random moment of scene a: the scene still has to
// end right, which includes that the HyperPod server saw exactly one replace call,
// also when that call's answer was lost. EVENKEEL_SOAK_SEED repeats a run.
func TestSoakKillAnyDaemonAtAnyMoment(t *testing.T) {
	if os.Getenv("EVENKEEL_SOAK") == "" {
		t.Skip("takes minutes; make soak runs it")
	}
	const rounds = 50
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("EVENKEEL_SOAK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("EVENKEEL_SOAK_SEED: %v", err)
		}
	}
	t.Logf("EVENKEEL_SOAK_SEED=%d", seed)
	// The agent of the node that fails, one that does not, and both fleet daemons.
	victims := []string{"remediator", "ip-10-1-0-5", "remediator", "collector", "ip-10-1-0-1"}
	for round := range rounds {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		victim := victims[round%len(victims)]
		// From the start of the scene to beyond the node's return.
		delay := time.Duration(r.Int64N(int64(16 * time.Second)))
		loseAnswer := round%2 == 0
		t.Run(fmt.Sprintf("%02d %s after %s lost=%t", round, victim, delay.Round(time.Millisecond), loseAnswer), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			killed := make(chan error, 1)
			var alarm *time.Timer
			err := Run(t.Context(), Options{
				Stdout: &out, Once: true, Bin: binDir(t), Scenes: []string{"a"},
				Up: func(ctx context.Context, c Cluster) {
					if loseAnswer {
						c.LoseAnswer()
					}
					alarm = time.AfterFunc(delay, func() { killed <- c.Kill(victim) })
				},
			})
			if err != nil {
				t.Errorf("scene a went wrong: %v\n%s", err, out.String())
			}
			if alarm == nil || alarm.Stop() {
				return // it never came up, or was over before the moment came
			}
			if err := <-killed; err != nil {
				t.Errorf("kill %s: %v", victim, err)
			}
		})
	}
}
