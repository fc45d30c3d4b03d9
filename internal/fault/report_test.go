package fault

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestPositionAfter(t *testing.T) {
	held := Position{BootID: "boot-1", Incarnation: 1000, Sequence: 7}
	for _, tc := range []struct {
		name string
		p    Position
		want bool
	}{
		{"the next report", Position{"boot-1", 1000, 8}, true},
		{"the same report again", Position{"boot-1", 1000, 7}, false},
		{"an older report that was late", Position{"boot-1", 1000, 6}, false},
		{"the agent was restarted", Position{"boot-1", 1001, 1}, true},
		{"a report of the agent before the restart", Position{"boot-1", 999, 90}, false},
		{"a reboot", Position{"boot-2", 2000, 1}, true},
		{"a report of the boot before", Position{"boot-0", 500, 90}, false},
		{"another boot claims the same incarnation", Position{"boot-2", 1000, 8}, false},
		{"another boot claims the same incarnation and sequence", Position{"boot-2", 1000, 7}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.p.After(held); got != tc.want {
				t.Errorf("%+v.After(%+v) = %t, want %t", tc.p, held, got, tc.want)
			}
			if tc.p.After(held) && held.After(tc.p) {
				t.Errorf("%+v and %+v are each after the other", tc.p, held)
			}
		})
	}
}

// TestClockStepBack follows what the doc comment of Position says about a clock
// that was set back while the agent was down.
func TestClockStepBack(t *testing.T) {
	const before, after = 1_000_000, 400_000 // the clock at the two starts, in ns
	held := Position{BootID: "boot-1", Incarnation: before, Sequence: 7}

	kept := Position{BootID: "boot-1", Incarnation: max(after, held.Incarnation+1), Sequence: 1}
	if !kept.After(held) {
		t.Errorf("with its state folder the agent starts at %+v, which is not after %+v", kept, held)
	}

	lost := Position{BootID: "boot-1", Incarnation: after, Sequence: 1}
	if lost.After(held) {
		t.Fatalf("%+v is after %+v, want it refused", lost, held)
	}
	answer, err := json.Marshal(StaleReport{Error: "not newer than the report held", Held: held})
	if err != nil {
		t.Fatal(err)
	}
	var stale StaleReport
	if err := json.Unmarshal(answer, &stale); err != nil {
		t.Fatal(err)
	}
	continued := Position{BootID: "boot-1", Incarnation: stale.Held.Incarnation + 1, Sequence: 2}
	if !continued.After(held) {
		t.Errorf("after the 409 the agent continues at %+v, which is not after %+v", continued, held)
	}
	if !(Position{BootID: "boot-1", Incarnation: continued.Incarnation, Sequence: 3}).After(continued) {
		t.Error("the report after it is not newer")
	}
}

// report is a valid one as JSON, with one field replaced.
func report(replace ...string) string {
	return strings.NewReplacer(replace...).Replace(`{"schema":1,"cluster":"c","node":"n1","instance_id":"i-1","boot_id":"b","incarnation":5,"sequence":1,
		"findings":[{"id":"f1","kind":"nvidia.xid.79","subject":{"node":"n1"},"state":"bad","severity":"fatal","action":"reboot","count":1}],
		"coverage":[{"source":"kernel","state":"ok","age_seconds":0.5}],"jobs":[{"job":"42","pid":7,"device_uuid":"GPU-0","device_index":0}]}`)
}

func TestDecodeReport(t *testing.T) {
	r, err := DecodeReport(strings.NewReader(report(`"sequence":1`, `"sequence":1,"from_a_newer_agent":{"x":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	if r.Position() != (Position{"b", 5, 1}) || len(r.Findings) != 1 || r.Findings[0].Action != Reboot {
		t.Errorf("DecodeReport = %+v", r)
	}

	r, err = DecodeReport(strings.NewReader(report(`"bad"`, `"worse"`, `"reboot"`, `"explode"`, `"ok"`, `"splendid"`)))
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Findings[0]; f.State != Unknown || f.Action != Investigate || r.Coverage[0].State != CoverageUnknown {
		t.Errorf("unknown words became %s, %s, %s, want unknown, investigate, unknown", f.State, f.Action, r.Coverage[0].State)
	}

	r, err = DecodeReport(strings.NewReader(report(`"state":"bad",`, ``, `"action":"reboot",`, ``, `"state":"ok",`, ``)))
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Findings[0]; f.State != Unknown || f.Action != Investigate || r.Coverage[0].State != CoverageUnknown {
		t.Errorf("without words: %q, %q, %q, want unknown, investigate, unknown", f.State, f.Action, r.Coverage[0].State)
	}
}

func TestDecodeReportRefuses(t *testing.T) {
	many := strings.Repeat(`{"id":"x","kind":"k","subject":{"node":"n1"},"state":"bad"},`, maxReportFindings)
	for _, tc := range []struct{ name, body, want string }{
		{"empty", "", "decode report"},
		{"truncated", report()[:100], "decode report"},
		{"not an object", "[]", "decode report"},
		{"schema", report(`"schema":1`, `"schema":0`), "schema: must be 1 or higher"},
		{"cluster", report(`"cluster":"c"`, `"cluster":"a b"`), "cluster: "},
		{"node", report(`"node":"n1","inst`, `"node":"-n1","inst`), "node: "},
		{"boot", report(`"boot_id":"b"`, `"boot_id":""`), "boot_id: "},
		{"instance", report(`"i-1"`, `"`+strings.Repeat("i", 254)+`"`), "instance_id: "},
		{"incarnation", report(`"incarnation":5`, `"incarnation":-5`), "incarnation: "},
		{"negative sequence", report(`"sequence":1`, `"sequence":-1`), "decode report"},
		{"finding of another node", report(`"subject":{"node":"n1"}`, `"subject":{"node":"n2"}`), `findings[0].subject.node: "n2" is not the reporting node "n1"`},
		{"finding without id", report(`"id":"f1"`, `"id":""`), "findings[0].id"},
		{"finding without kind", report(`"kind":"nvidia.xid.79"`, `"kind":""`), "findings[0].kind"},
		{"the same finding twice", report(`"findings":[`, `"findings":[{"id":"f1","kind":"k","subject":{"node":"n1"},"state":"bad"},`), `findings[1].id: "f1" appears twice`},
		{"cleared without evidence", report(`"state":"bad"`, `"state":"ok"`), "findings[0].cleared_by"},
		{"too many findings", report(`"findings":[`, `"findings":[`+many), "findings: 1025 of them"},
		{"too large", report(`"sequence":1`, `"sequence":1`+strings.Repeat(" ", MaxReportBytes)), "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := DecodeReport(strings.NewReader(tc.body))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("DecodeReport = %+v, %v, want an error that says %q", r, err, tc.want)
			}
		})
	}
}

func FuzzDecodeReport(f *testing.F) {
	f.Add([]byte(report()))
	f.Add([]byte(report(`"state":"bad"`, `"state":"ok","cleared_by":{"source":"a","clear":"reboot"}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeReport(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("a decoded report does not marshal: %v", err)
		}
		if len(again) <= MaxReportBytes {
			if _, err := DecodeReport(strings.NewReader(string(again))); err != nil {
				t.Errorf("a report is refused after a round trip: %v", err)
			}
		}
		for _, finding := range r.Findings {
			if ok, _ := finding.Authorises(); ok && finding.State != Bad {
				t.Errorf("a finding of state %s authorises", finding.State)
			}
			if finding.Action.Rung() < 0 && finding.Action != Investigate {
				t.Errorf("action %q was taken", finding.Action)
			}
		}
	})
}

func TestValidName(t *testing.T) {
	for _, tc := range []struct {
		name string
		want bool
	}{
		{"ip-10-1-0-1", true}, {"ip-10-1-0-1.ec2.internal", true}, {"n", true}, {"A_b", true}, {strings.Repeat("n", 253), true},
		{"", false}, {"-n", false}, {"n-", false}, {"a b", false}, {"a/b", false}, {"a\n", false}, {"é", false}, {strings.Repeat("n", 254), false},
	} {
		if got := ValidName(tc.name); got != tc.want {
			t.Errorf("ValidName(%.40q) = %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestReportOfManyFindingsStaysSmall(t *testing.T) {
	r := NodeReport{Schema: 1, Cluster: "c", Node: "n1", BootID: "b", Incarnation: 1}
	for i := range 16 * len(NewCatalogue(DefaultTiming()).Rows()) { // 16 devices with every kind bad
		r.Findings = append(r.Findings, Finding{ID: fmt.Sprint(i), Kind: "k", State: Bad, Subject: Subject{Node: "n1"},
			Evidence: make([]Evidence, 8)})
		for j := range r.Findings[i].Evidence {
			r.Findings[i].Evidence[j].Text = strings.Repeat("x", 150)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > MaxReportBytes {
		t.Errorf("the report has %d bytes, at most %d are taken", len(data), MaxReportBytes)
	}
}
