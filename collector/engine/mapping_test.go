package engine

import (
	"strings"
	"testing"
	"time"
)

// A histogram may have the name that a counter would have with its suffix.
func TestReadTellsCountersFromHistograms(t *testing.T) {
	const histogram = "# TYPE asked_total histogram\nasked_total_bucket{le=\"+Inf\"} 3\nasked_total_sum 99\nasked_total_count 3\n"
	for _, kind := range []string{"counter", "untyped", "gauge"} {
		got, err := testMapping.Read(strings.NewReader(histogram+"# TYPE asked "+kind+"\nasked 10\n# TYPE found_total counter\nfound_total 4\n"), time.Unix(1, 0))
		if err != nil || len(got) != 1 || got[0].Tokens.Queries() != 10 {
			t.Errorf("Read() with a %s = %+v, %v, want 10 tokens asked for", kind, got, err)
		}
	}
}
