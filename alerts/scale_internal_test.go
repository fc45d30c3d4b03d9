package alerts

import (
	"strings"
	"testing"
)

func TestScale(t *testing.T) {
	const rules = `
groups:
  - name: g # interval: 1m
    interval: 1m
    rules:
      - alert: A
        expr: rate(x[5m]) > 0
        for: 10m # ten minutes
        keep_firing_for: 1h
        annotations: {for: 5m, interval: 1m}
      - alert: B
        expr: y > 0
        for: 0s
      - alert: C
        expr: z > 0
        for: 1ms
`
	const want = `
groups:
  - name: g # interval: 1m
    interval: 3s
    rules:
      - alert: A
        expr: rate(x[5m]) > 0
        for: 30s # ten minutes
        keep_firing_for: 3m
        annotations: {for: 5m, interval: 1m}
      - alert: B
        expr: y > 0
        for: 0s
      - alert: C
        expr: z > 0
        for: 1ms
`
	got, err := scale([]byte(rules), 20)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("scale(rules, 20) = %s\nwant %s", got, want)
	}
}

func TestScaleRefuses(t *testing.T) {
	tests := []struct {
		name, rules string
		factor      int
		wantErr     string
	}{
		{"factor zero", "groups: []", 0, "factor must be at least 1, got 0"},
		{"nothing", "", 2, "empty document"},
		{"no YAML", "groups: [", 2, "parse rules"},
		{"no duration", "groups:\n  - interval: soon\n", 2, "line 2: interval: not a valid duration"},
		{"a list for a duration", "groups:\n  - interval: [1m]\n", 2, "line 2: interval must be a plain scalar"},
		{"a quoted duration", "groups:\n  - interval: \"1m\"\n", 2, "line 2: interval must be a plain scalar"},
		{"two durations on a line", "groups:\n  - rules:\n    - {for: 1m, keep_firing_for: 1m}\n", 2, "line 3: rules must be written in block style"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := scale([]byte(tc.rules), tc.factor)
			if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("scale(%q, %d) = %q, %v, want an error with %q", tc.rules, tc.factor, got, err, tc.wantErr)
			}
		})
	}
}
