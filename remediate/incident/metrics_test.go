package incident

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, false)
		registry := prometheus.NewRegistry()
		opts := w.options(handsOff(t), &journal.Memory{})
		opts.Registerer = registry
		p := launch(t, w, opts)
		defer p.stop()
		w.raise("n1", fault.XidOffTheBus)
		time.Sleep(20 * time.Minute)
		w.raise("n2", fault.XidOffTheBus, provisional)
		time.Sleep(time.Minute)
		synctest.Wait()
		want := `
# HELP evenkeel_remediator_duplicate_actions_total Replacements asked for an instance that was replaced already. Must be 0.
# TYPE evenkeel_remediator_duplicate_actions_total counter
evenkeel_remediator_duplicate_actions_total{cluster="c"} 0
# HELP evenkeel_remediator_incidents Open incidents, by state.
# TYPE evenkeel_remediator_incidents gauge
evenkeel_remediator_incidents{cluster="c",state="acting"} 0
evenkeel_remediator_incidents{cluster="c",state="awaiting_return"} 0
evenkeel_remediator_incidents{cluster="c",state="checkpoint_gate"} 0
evenkeel_remediator_incidents{cluster="c",state="confirmed"} 0
evenkeel_remediator_incidents{cluster="c",state="isolated"} 0
evenkeel_remediator_incidents{cluster="c",state="observed"} 1
evenkeel_remediator_incidents{cluster="c",state="resuming"} 0
evenkeel_remediator_incidents{cluster="c",state="validating"} 0
# HELP evenkeel_remediator_incidents_total Incidents closed, by outcome.
# TYPE evenkeel_remediator_incidents_total counter
evenkeel_remediator_incidents_total{cluster="c",outcome="failed"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="handed_over"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="recovered"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="repaired"} 1
# HELP evenkeel_remediator_kill_switch 1 while the kill switch is on.
# TYPE evenkeel_remediator_kill_switch gauge
evenkeel_remediator_kill_switch{cluster="c"} 0
`
		err := testutil.GatherAndCompare(registry, strings.NewReader(want), "evenkeel_remediator_duplicate_actions_total",
			"evenkeel_remediator_incidents", "evenkeel_remediator_incidents_total", "evenkeel_remediator_kill_switch")
		if err != nil {
			t.Error(err)
		}
		if n := testutil.CollectAndCount(&gauges{c: p.Controller,
			incidents: prometheus.NewDesc("a", "", []string{"state"}, nil), holds: prometheus.NewDesc("b", "", []string{"reason"}, nil),
			kill: prometheus.NewDesc("c", "", nil, nil)}, "b"); n != len(holdNames) {
			t.Errorf("%d series of holds, want one for each of %v", n, holdNames)
		}
	})
}
