package alerts_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordingRules(t *testing.T) {
	tests := []struct {
		name   string
		record string
		run    func(*cluster)
		want   []string
	}{
		{
			name:   "a node with a confirmed error counts, one with a warning or a provisional error does not",
			record: "cluster:evenkeel_nodes_bad:count",
			run:    func(c *cluster) { c.step(exposition(c.t, "agent")) },
			want:   []string{`{cluster="east"} 1`, `{cluster="west"} 0`},
		},
		{
			name:   "two findings on one node are one bad node",
			record: "cluster:evenkeel_nodes_bad:count",
			run: func(c *cluster) {
				body := changed(c.t, exposition(c.t, "agent"), change{`severity="warning"`, `severity="error"`})
				c.step(changed(c.t, body, change{`kind="nvidia.gpu.thermal",node="ip-10-1-0-3"`, `kind="nvidia.gpu.missing",node="ip-10-1-0-2"`}))
			},
			want: []string{`{cluster="east"} 1`, `{cluster="west"} 0`},
		},
		{
			name:   "the busy replica weighs more than the idle one, and a model without look-ups has no ratio",
			record: "cluster_model:evenkeel_kv_cache_hit_tokens_per_query_tokens:ratio_rate5m",
			run: func(c *cluster) {
				for i := range 10 {
					// r0: 70 % of 300 tokens per step, r1: 10 % of 30. The mean of
					// the two ratios would be 40 %.
					body := exposition(c.t, "collector")
					body = withValue(c.t, body, `evenkeel_kv_cache_query_tokens_total{cluster="east",model="dsv3",replica="r0"}`, i*300)
					body = withValue(c.t, body, `evenkeel_kv_cache_query_tokens_total{cluster="east",model="dsv3",replica="r1"}`, i*30)
					body = withValue(c.t, body, `evenkeel_kv_cache_hit_tokens_total{cluster="east",model="dsv3",replica="r0",tier="device"}`, i*150)
					body = withValue(c.t, body, `evenkeel_kv_cache_hit_tokens_total{cluster="east",model="dsv3",replica="r0",tier="external"}`, i*60)
					body = withValue(c.t, body, `evenkeel_kv_cache_hit_tokens_total{cluster="east",model="dsv3",replica="r1",tier="device"}`, i*3)
					c.step(body)
				}
			},
			want: []string{`{cluster="east", model="dsv3"} 0.6455`}, // 213/330
		},
		{
			name:   "the worst layer of each replica",
			record: "cluster_model_replica:evenkeel_moe_layer_balancedness_ratio:min",
			run:    func(c *cluster) { c.step(exposition(c.t, "collector")) },
			want: []string{
				`{cluster="east", model="dsv3", replica="r0"} 0.4`,
				`{cluster="east", model="dsv3", replica="r1"} 0.8`,
			},
		},
		{
			name:   "ranks by verdict",
			record: "cluster_model_verdict:evenkeel_rank_verdict:sum",
			run:    func(c *cluster) { c.step(exposition(c.t, "collector")) },
			want:   []string{`{cluster="east", model="dsv3", verdict="busy"} 1`, `{cluster="east", model="dsv3", verdict="normal"} 2`},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			tc.run(c)
			if diff := cmp.Diff(tc.want, c.query(tc.record)); diff != "" {
				t.Errorf("%s differs (-want +got):\n%s", tc.record, diff)
			}
		})
	}
}

// withValue sets the value of one series of the exposition.
func withValue(t *testing.T, exposition, series string, value int) string {
	t.Helper()
	lines := strings.Split(exposition, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, series+" ") {
			lines[i] = series + " " + strconv.Itoa(value)
			return strings.Join(lines, "\n")
		}
	}
	t.Fatalf("the exposition has no series %s", series)
	return ""
}
