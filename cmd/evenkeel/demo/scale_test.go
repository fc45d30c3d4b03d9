package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/remediate/policy"
)

// The demo must run the shipped policy: dividing the timing block changes the
// durations of that block and not one other byte.
func TestScaleTimingChangesNothingElse(t *testing.T) {
	const factor = 20
	shipped, err := policy.ShippedFile(policy.NameHandsOff)
	if err != nil {
		t.Fatal(err)
	}
	scaled, err := scaleTiming(shipped, factor)
	if err != nil {
		t.Fatal(err)
	}
	before, after := strings.Split(string(shipped), "\n"), strings.Split(string(scaled), "\n")
	if len(before) != len(after) {
		t.Fatalf("scaling changed the number of lines from %d to %d", len(before), len(after))
	}
	changed := 0
	inTiming := false
	for i := range before {
		if before[i] != "" && !strings.HasPrefix(before[i], " ") && !strings.HasPrefix(before[i], "#") {
			inTiming = strings.HasPrefix(before[i], "timing:")
		}
		if before[i] == after[i] {
			continue
		}
		changed++
		if !inTiming {
			t.Errorf("line %d outside of timing changed from %q to %q", i+1, before[i], after[i])
		}
		key, was, now := durationLine(t, before[i]), durationOf(t, before[i]), durationOf(t, after[i])
		if now != was/factor {
			t.Errorf("timing.%s = %s after scaling, want %s / %d", key, now, was, factor)
		}
	}
	if changed < 5 {
		t.Errorf("scaling changed %d durations, want all of the timing block", changed)
	}
}

func durationLine(t *testing.T, line string) string {
	t.Helper()
	key, _, ok := strings.Cut(strings.TrimSpace(line), ":")
	if !ok {
		t.Fatalf("line %q is no key and value", line)
	}
	return key
}

func durationOf(t *testing.T, line string) time.Duration {
	t.Helper()
	_, value, _ := strings.Cut(line, ":")
	value, _, _ = strings.Cut(value, "#")
	d, err := time.ParseDuration(strings.TrimSpace(value))
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return d
}

func TestScaleTimingRefuses(t *testing.T) {
	for _, tc := range []struct{ name, document, want string }{
		{"no timing block", "rules: []\n", "no timing block"},
		{"not a duration", "timing:\n  poll: soon\n", "timing.poll"},
		{"not YAML", "timing: [", "scale timing"},
		{"a list", "- timing\n", "not a mapping"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := scaleTiming([]byte(tc.document), 20); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("scaleTiming(%q) = %v, want an error about %q", tc.document, err, tc.want)
			}
		})
	}
}
