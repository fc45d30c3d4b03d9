package alerts_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/evenkeel/evenkeel/alerts"
)

// change replaces one value in an exposition.
type change struct{ old, new string }

// nearMiss is a firing case made not to fire by one value or by one step.
type nearMiss struct {
	name   string
	change change // one value, or
	early  bool   // one step earlier
}

var alertCases = []struct {
	name       string
	alert      string
	daemon     string // whose exposition
	change     change // to the exposition, if it does not fire by itself
	steps      int    // evaluations until it fires
	wantLabels map[string]string
	wantText   string // description
	nearMisses []nearMiss
}{
	{
		name:   "confirmed fatal finding",
		alert:  "EvenkeelFatalFinding",
		daemon: "agent",
		steps:  1,
		wantLabels: map[string]string{
			"alertname": "EvenkeelFatalFinding", "severity": "critical",
			"cluster": "east", "node": "ip-10-1-0-2", "kind": "nvidia.xid.79", "action": "reboot",
			"device": "gpu", "pci": "0000:53:00", "uuid": "GPU-2b", "simulated": "false",
		},
		wantText: "Node ip-10-1-0-2 of cluster east: nvidia.xid.79 is confirmed for gpu 0000:53:00; the evidence asks for reboot.",
		nearMisses: []nearMiss{
			{name: "provisional", change: change{`provisional="false",severity="fatal"`, `provisional="true",severity="fatal"`}},
			{name: "not fatal", change: change{`severity="fatal"`, `severity="error"`}},
		},
	},
	{
		name:   "simulated finding says so",
		alert:  "EvenkeelFatalFinding",
		daemon: "agent",
		change: change{`severity="fatal",simulated="false"`, `severity="fatal",simulated="true"`},
		steps:  1,
		wantLabels: map[string]string{
			"alertname": "EvenkeelFatalFinding", "severity": "critical",
			"cluster": "east", "node": "ip-10-1-0-2", "kind": "nvidia.xid.79", "action": "reboot",
			"device": "gpu", "pci": "0000:53:00", "uuid": "GPU-2b", "simulated": "true",
		},
		wantText: "Node ip-10-1-0-2 of cluster east: nvidia.xid.79 is confirmed for gpu 0000:53:00; the evidence asks for reboot.",
	},
	{
		name:   "device without an address",
		alert:  "EvenkeelFatalFinding",
		daemon: "agent",
		change: change{`device="gpu",kind="nvidia.xid.79",node="ip-10-1-0-2",pci="0000:53:00"`, `device="disk",kind="host.disk.read_only",node="ip-10-1-0-2",pci=""`},
		steps:  1,
		wantLabels: map[string]string{
			"alertname": "EvenkeelFatalFinding", "severity": "critical",
			"cluster": "east", "node": "ip-10-1-0-2", "kind": "host.disk.read_only", "action": "reboot",
			"device": "disk", "uuid": "GPU-2b", "simulated": "false",
		},
		wantText: "Node ip-10-1-0-2 of cluster east: host.disk.read_only is confirmed for disk; the evidence asks for reboot.",
	},
	{
		name:   "old report",
		alert:  "EvenkeelNodeReportStale",
		daemon: "remediator",
		steps:  11, // at once and after each 30s, until for: 5m is over
		wantLabels: map[string]string{
			"alertname": "EvenkeelNodeReportStale", "severity": "warning",
			"cluster": "east", "node": "ip-10-1-0-3",
		},
		wantText: "The newest report of node ip-10-1-0-3 of cluster east is 1m 1s old.",
		nearMisses: []nearMiss{
			{name: "just current", change: change{`node="ip-10-1-0-3"} 61`, `node="ip-10-1-0-3"} 60`}},
			{name: "not for long enough", early: true},
		},
	},
	{
		name:   "uneven expert load",
		alert:  "EvenkeelExpertImbalance",
		daemon: "collector",
		steps:  31, // for: 15m
		wantLabels: map[string]string{
			"alertname": "EvenkeelExpertImbalance", "severity": "warning",
			"cluster": "east", "model": "dsv3", "replica": "r0",
		},
		wantText: "Replica r0 of model dsv3 in cluster east is at 49% balancedness. The busy ranks are not sick; place the experts anew.",
		nearMisses: []nearMiss{
			{name: "at the threshold", change: change{`replica="r0"} 0.49`, `replica="r0"} 0.5`}},
			{name: "low by the other method only", change: change{`method="ratio_of_sums",model="dsv3",replica="r0"`, `method="mean_of_layers",model="dsv3",replica="r0"`}},
			{name: "not for long enough", early: true},
		},
	},
	{
		name:   "hold that stands",
		alert:  "EvenkeelRemediationHeld",
		daemon: "remediator",
		steps:  31, // for: 15m
		wantLabels: map[string]string{
			"alertname": "EvenkeelRemediationHeld", "severity": "warning",
			"cluster": "east", "reason": "common_cause",
		},
		wantText: "1 remediation(s) in cluster east are held for the reason common_cause. Nothing is done to these nodes until the hold ends or a person decides.",
		nearMisses: []nearMiss{
			{name: "no hold", change: change{`reason="common_cause"} 1`, `reason="common_cause"} 0`}},
			{name: "policy only observes", change: change{`reason="common_cause"`, `reason="mode"`}},
			{name: "evidence calls for nothing", change: change{`reason="common_cause"`, `reason="evidence"`}},
			{name: "node is on its way back", change: change{`reason="common_cause"`, `reason="return"`}},
			{name: "not for long enough", early: true},
		},
	},
}

func TestAlertsFire(t *testing.T) {
	for _, tc := range alertCases {
		t.Run(tc.name, func(t *testing.T) {
			body := changed(t, exposition(t, tc.daemon), tc.change)
			c := newCluster(t)
			for range tc.steps {
				c.step(body)
			}
			firing := c.firing(tc.alert)
			if len(firing) != 1 {
				t.Fatalf("%s after %d steps: %d alerts fire, want 1", tc.alert, tc.steps, len(firing))
			}
			if diff := cmp.Diff(tc.wantLabels, firing[0].Labels.Map()); diff != "" {
				t.Errorf("labels of %s differ (-want +got):\n%s", tc.alert, diff)
			}
			if got := firing[0].Annotations.Get("description"); got != tc.wantText {
				t.Errorf("description of %s = %q, want %q", tc.alert, got, tc.wantText)
			}
			firing[0].Annotations.Range(func(l labels.Label) { checkAnnotationText(t, l.Name, l.Value) })
		})
	}
}

func TestNearMissesDoNotFire(t *testing.T) {
	for _, tc := range alertCases {
		for _, miss := range tc.nearMisses {
			t.Run(tc.name+"/"+miss.name, func(t *testing.T) {
				body, steps := changed(t, exposition(t, tc.daemon), tc.change), tc.steps
				switch {
				case miss.early && miss.change == change{}:
					steps--
				case !miss.early && miss.change != change{}:
					checkOneValue(t, miss.change)
					body = changed(t, body, miss.change)
				default:
					t.Fatal("a near miss differs by one value or by one step")
				}
				c := newCluster(t)
				for range steps {
					c.step(body)
				}
				if firing := c.firing(tc.alert); len(firing) != 0 {
					t.Errorf("%s fires: %v, want no alert", tc.alert, firing[0].Labels)
				}
			})
		}
	}
}

// A finding that is there keeps its alert, and one that the agent withdrew
// takes it away at the next evaluation.
func TestFatalFindingLastsWhilePresent(t *testing.T) {
	present := exposition(t, "agent")
	withdrawn := changed(t, present, change{`severity="fatal"`, `severity="info"`})
	c := newCluster(t)
	for step := range 240 { // two hours
		c.step(present)
		if got := len(c.firing("EvenkeelFatalFinding")); got != 1 {
			t.Fatalf("step %d: %d alerts fire, want 1", step, got)
		}
	}
	c.markStale(present)
	c.step(withdrawn)
	if got := len(c.firing("EvenkeelFatalFinding")); got != 0 {
		t.Errorf("after the finding was withdrawn: %d alerts fire, want 0", got)
	}
}

// One node may be scraped by two Prometheus jobs and push its samples as well.
func TestOneAlertPerFindingHoweverOftenItIsScraped(t *testing.T) {
	body := exposition(t, "agent")
	c := newCluster(t)
	c.scrapeAs(body, "pushed:9101")
	c.step(body)
	if got := len(c.firing("EvenkeelFatalFinding")); got != 1 {
		t.Errorf("%d alerts fire for one finding, want 1", got)
	}
}

func TestEveryAlertFiresAndHasANearMiss(t *testing.T) {
	fires, misses := map[string]int{}, map[string]int{}
	for _, tc := range alertCases {
		fires[tc.alert]++
		misses[tc.alert] += len(tc.nearMisses)
	}
	var total int
	for _, group := range parseRules(t, alerts.Rules()).Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			total++
			if fires[rule.Alert] == 0 || misses[rule.Alert] == 0 {
				t.Errorf("%s: %d firing cases and %d near misses, want at least one of each", rule.Alert, fires[rule.Alert], misses[rule.Alert])
			}
		}
	}
	if total != 4 {
		t.Errorf("%d alerting rules, want 4", total)
	}
}

// changed makes the change, which must be about exactly one place.
func changed(t *testing.T, exposition string, c change) string {
	t.Helper()
	if c == (change{}) {
		return exposition
	}
	if n := strings.Count(exposition, c.old); n != 1 {
		t.Fatalf("%q stands %d times in the exposition, want once", c.old, n)
	}
	return strings.Replace(exposition, c.old, c.new, 1)
}

var exposed = regexp.MustCompile(`[a-z_]+="[^"]*"|[^ ]+$`)

// checkOneValue refuses a change of more than one label's or sample's value.
func checkOneValue(t *testing.T, c change) {
	t.Helper()
	before, after := exposed.FindAllString(c.old, -1), exposed.FindAllString(c.new, -1)
	if len(before) != len(after) {
		t.Fatalf("change %v adds or removes something", c)
	}
	var differ int
	for i := range before {
		if before[i] != after[i] {
			differ++
		}
	}
	if differ != 1 {
		t.Fatalf("change %v touches %d values, want one", c, differ)
	}
}

// checkAnnotationText refuses what breaks a message on its way: SNS templates
// put annotations into JSON without escaping.
func checkAnnotationText(t *testing.T, name, text string) {
	t.Helper()
	if text == "" || strings.ContainsAny(text, "\"\\\n\t") || strings.Contains(text, "<no value>") || strings.Contains(text, "error expanding") || strings.Contains(text, "  ") {
		t.Errorf("annotation %s = %q: want one plain line without quotes or backslashes", name, text)
	}
}
