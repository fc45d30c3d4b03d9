package alerts_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/evenkeel/evenkeel/alerts"
)

func TestScaledDividesDurationsAndNothingElse(t *testing.T) {
	const factor = 20
	scaled, err := alerts.Scaled(factor)
	if err != nil {
		t.Fatal(err)
	}
	want, got := parseRules(t, alerts.Rules()), parseRules(t, scaled)
	divided := 0
	divide := func(d *model.Duration) {
		if *d > 0 {
			*d = model.Duration(time.Duration(*d) / factor)
			divided++
		}
	}
	for i := range want.Groups {
		divide(&want.Groups[i].Interval)
		for j := range want.Groups[i].Rules {
			divide(&want.Groups[i].Rules[j].For)
			divide(&want.Groups[i].Rules[j].KeepFiringFor)
		}
	}
	if divided == 0 {
		t.Fatal("the shipped rules have no duration to divide")
	}
	if diff := cmp.Diff(want.Groups, got.Groups, cmp.FilterPath(isNode, cmp.Ignore())); diff != "" {
		t.Errorf("Scaled(%d) differs from the shipped rules with their durations divided (-want +got):\n%s", factor, diff)
	}

	shippedLines, scaledLines := strings.Split(string(alerts.Rules()), "\n"), strings.Split(string(scaled), "\n")
	if len(shippedLines) != len(scaledLines) {
		t.Fatalf("Scaled(%d) has %d lines, want %d", factor, len(scaledLines), len(shippedLines))
	}
	for i, line := range shippedLines {
		key, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if line != scaledLines[i] && key != "for" && key != "interval" && key != "keep_firing_for" {
			t.Errorf("Scaled(%d) line %d = %q, want %q", factor, i+1, scaledLines[i], line)
		}
	}
}

// isNode leaves out what only records positions in the text.
func isNode(p cmp.Path) bool {
	return strings.Contains(p.Last().Type().String(), "yaml.Node")
}

func TestScaledByOneIsTheShippedFile(t *testing.T) {
	scaled, err := alerts.Scaled(1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(alerts.Rules()), string(scaled)); diff != "" {
		t.Errorf("Scaled(1) differs (-want +got):\n%s", diff)
	}
}
