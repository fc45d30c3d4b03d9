package health

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
)

func jsonSize(t *testing.T, v any) int {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return len(data)
}

func TestRestoreSameBoot(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidNVLink, fault.Bad)
	e.see(1, fault.XidMMUFault, fault.Bad)
	e.see(2, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset))
	e.see(3, fault.DriverHung, fault.Unknown)

	restored := New(catalogue, here)
	if err := restored.Restore(e.Save(), at(10)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e.Findings(), restored.Findings()); diff != "" {
		t.Errorf("findings differ after a restart (-before +after):\n%s", diff)
	}
	restored.see(20, fault.XidNVLink, fault.Bad)
	if one(t, restored, fault.XidNVLink).Provisional {
		t.Error("an observation before the restart does not count")
	}
}

func TestRestoreStartsRunsAnew(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.GPUThermal, fault.Bad)
	e.see(29, fault.GPUThermal, fault.Bad)
	e.see(29, fault.XidMMUFault, fault.Bad)
	e.see(30, fault.XidMMUFault, fault.OK)
	restored := New(catalogue, here)
	if err := restored.Restore(e.Save(), at(31)); err != nil {
		t.Fatal(err)
	}
	restored.see(31, fault.GPUThermal, fault.Bad)
	restored.Tick(at(60))
	if !one(t, restored, fault.GPUThermal).Provisional {
		t.Error("a hold was confirmed across a restart, though nobody looked in between")
	}
	restored.see(90, fault.XidMMUFault, fault.OK)
	if one(t, restored, fault.XidMMUFault).State != fault.Bad {
		t.Error("a healthy run was counted across a restart, though nobody looked in between")
	}
}

// TestRestoreAfterReboot holds every row to its word on reboots and replacements.
func TestRestoreAfterReboot(t *testing.T) {
	rebooted, replaced := here, here
	rebooted.BootID = "boot-2"
	replaced.BootID, replaced.InstanceID = "boot-2", "i-0bbbbbbbbbbbbbbbb"
	unreadable := rebooted
	unreadable.InstanceID = ""
	for _, row := range catalogue.Rows() {
		for _, tc := range []struct {
			name string
			now  Identity
			by   fault.Clear
		}{{"reboot", rebooted, fault.ClearReboot}, {"replacement", replaced, fault.ClearReplaced}, {"reboot with unreadable instance id", unreadable, fault.ClearReboot}} {
			t.Run(string(row.Kind)+"/"+tc.name, func(t *testing.T) {
				e := New(catalogue, here)
				e.see(0, row.Kind, fault.Bad)
				before := one(t, e, row.Kind)
				e = New(catalogue, tc.now)
				state := New(catalogue, here)
				state.see(0, row.Kind, fault.Bad)
				if err := e.Restore(state.Save(), at(60)); err != nil {
					t.Fatal(err)
				}
				f := one(t, e, row.Kind)
				if !f.History || f.ID != before.ID || f.BootID != here.BootID {
					t.Errorf("finding = %+v, want history under id %s", f, before.ID)
				}
				want := fault.Bad
				if row.Cleared(tc.by) {
					want = fault.OK
				}
				if f.State != want || want == fault.OK && f.ClearedBy.Clear != tc.by {
					t.Errorf("state = %s, cleared by %+v, want %s by %s", f.State, f.ClearedBy, want, tc.by)
				}
				if authorises, _ := f.Authorises(); authorises {
					t.Error("a fault of an earlier boot authorises")
				}
				e.see(61, row.Kind, fault.Bad)
				if n := len(e.Findings()); n != 2 {
					t.Errorf("%d findings after it happened again, want the history and a new one", n)
				}
				again := New(catalogue, tc.now)
				if err := again.Restore(e.Save(), at(70)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(e.Findings(), again.Findings()); diff != "" {
					t.Errorf("findings differ after another restart (-before +after):\n%s", diff)
				}
			})
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidMMUFault, fault.Bad)
	good := string(e.Save())
	for _, tc := range []struct{ name, state, want string }{
		{"garbage", "{", "decode state"},
		{"empty", "", "decode state"},
		{"schema", strings.Replace(good, `"schema":1`, `"schema":2`, 1), "schema 2, want 1"},
		{"node", strings.Replace(good, here.Node, "ip-10-1-0-2", 1), "another node"},
		{"id", strings.Replace(good, `"id":"`, `"id":"","x":"`, 1), "findings[0]: id"},
		{"kind", strings.Replace(good, `"kind":"`, `"kind":"","x":"`, 1), "findings[0]: kind"},
		{"cleared by nothing", strings.Replace(good, `"state":"bad"`, `"state":"ok"`, 1), "cleared only by evidence"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			restored := New(catalogue, here)
			err := restored.Restore([]byte(tc.state), at(10))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Restore = %v, want an error that says %q", err, tc.want)
			}
			if errors.Is(err, ErrForeignState) != (tc.name == "node") {
				t.Errorf("Restore = %v, ErrForeignState only for another node", err)
			}
			if n := len(restored.Findings()); n != 0 {
				t.Errorf("%d findings after a refused state, want none", n)
			}
		})
	}
}

func TestRestoreAfterClockStepBack(t *testing.T) {
	e := New(catalogue, here)
	e.see(3600, fault.XidMMUFault, fault.Bad)
	restored := New(catalogue, here)
	if err := restored.Restore(e.Save(), at(0)); err != nil {
		t.Fatal(err)
	}
	restored.see(1, fault.XidMMUFault, fault.OK, clearing(fault.ClearReset))
	if f := one(t, restored, fault.XidMMUFault); f.State != fault.OK {
		t.Errorf("a fault from before a clock step back is %s after a reset, want ok", f.State)
	}
}

func TestRestoreKeepsUnknownKind(t *testing.T) {
	e := New(catalogue, here)
	e.see(0, fault.XidMMUFault, fault.Bad)
	state := strings.ReplaceAll(string(e.Save()), "nvidia.xid.31", "nvidia.xid.999")
	restored := New(catalogue, here)
	if err := restored.Restore([]byte(state), at(10)); err != nil {
		t.Fatal(err)
	}
	if f := one(t, restored, "nvidia.xid.999"); f.State != fault.Bad || f.History {
		t.Errorf("finding of a kind that this version does not know = %+v, want it kept", f)
	}
}

func FuzzRestore(f *testing.F) {
	e := New(catalogue, here)
	e.see(0, fault.XidNVLink, fault.Bad)
	e.see(1, fault.GPUMissing, fault.Bad)
	e.see(1, fault.XidOffTheBus, fault.Bad)
	f.Add(e.Save())
	f.Add([]byte(`{"schema":1,"identity":{"node":"ip-10-1-0-1"},"findings":[{"id":"a","kind":"b","state":"x"}]}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		for _, id := range []Identity{here, {Node: here.Node, InstanceID: "i-b", BootID: "boot-2"}} {
			e := New(catalogue, id)
			if e.Restore(state, at(10)) != nil {
				continue
			}
			e.see(11, fault.XidNVLink, fault.Bad)
			e.see(12, fault.GPUMissing, fault.OK)
			e.Tick(at(13))
			report := fault.NodeReport{Schema: 1, Cluster: "c", Node: here.Node, BootID: "b", Incarnation: 1, Findings: e.Findings()}
			if err := report.Validate(); err != nil {
				t.Errorf("a restored engine makes a report that is refused: %v", err)
			}
			if err := New(catalogue, id).Restore(e.Save(), at(20)); err != nil {
				t.Errorf("Restore of what was saved: %v", err)
			}
		}
	})
}
