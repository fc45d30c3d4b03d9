package guard

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// allowed is a request that every guard allows.
func allowed() *Request {
	return &Request{
		Now: now, Purpose: Repair, Node: "n1", Remedy: fault.Replace, Mode: policy.Act,
		Evidence: Evidence{
			Kind: fault.XidNVLink, Family: fault.FamilyFabric, InstanceID: "i-1", BootID: "b-1",
			Since: now.Add(-time.Hour), Standing: true, Current: true,
		},
		Witnesses: []Witness{
			{Name: "report", Known: true, InstanceID: "i-1", BootID: "b-1"},
			{Name: "orchestrator", Known: true},
			{Name: "provider", Known: true, InstanceID: "i-1"},
		},
	}
}

func testPolicy() *policy.Policy {
	p := policy.Default()
	p.Guards.ProtectedHosts = []string{"slurmctld"}
	p.Guards.Budget = policy.Budget{ClusterInFlight: 2, ClusterIsolated: 3, PerWindow: policy.Count{Count: 4}, PerNode: policy.Count{Count: 2}}
	return &p
}

// Each guard has a request that it holds and, one value away, one that it allows.
// No other guard minds either.
func TestGuards(t *testing.T) {
	timing := testPolicy().Timing
	acts := func(node string, ages ...time.Duration) []Act {
		var a []Act
		for n, age := range ages {
			a = append(a, Act{Incident: "inc-0", Node: node, Remedy: fault.Reboot, InstanceID: "i-old", BootID: string(rune('a' + n)), At: now.Add(-age)})
		}
		return a
	}
	for _, tc := range []struct {
		name  string
		guard string
		held  func(*Request)
		// near is applied on top of held, and makes the guard allow.
		near  func(*Request)
		until time.Time
	}{
		{
			name: "kill switch", guard: "kill_switch",
			held: func(r *Request) { r.Fleet.KillSwitch = "drill" },
			near: func(r *Request) { r.Fleet.KillSwitch = "" },
		},
		{
			name: "observe", guard: "mode",
			held: func(r *Request) { r.Mode = policy.Observe },
			near: func(r *Request) { r.Mode = policy.Act },
		},
		{
			name: "observe, approved all the same", guard: "mode",
			held: func(r *Request) { r.Mode, r.Approved = policy.Observe, true },
			near: func(r *Request) { r.Mode = policy.Approve },
		},
		{
			name: "approve", guard: "mode",
			held: func(r *Request) { r.Mode = policy.Approve },
			near: func(r *Request) { r.Approved = true },
		},
		{
			name: "a mode that does not exist", guard: "mode",
			held: func(r *Request) { r.Mode = "" },
			near: func(r *Request) { r.Mode = policy.Act },
		},
		{
			name: "no remedy", guard: "mode",
			held: func(r *Request) { r.Remedy = fault.None },
			near: func(r *Request) { r.Remedy = fault.Reboot },
		},
		{
			name: "not confirmed", guard: "evidence",
			held: func(r *Request) { r.Evidence.Standing = false },
			near: func(r *Request) { r.Evidence.Standing = true },
		},
		{
			name: "outdated", guard: "freshness",
			held: func(r *Request) { r.Evidence.Current = false },
			near: func(r *Request) { r.Evidence.Current = true },
		},
		{
			name: "evidence without instance", guard: "identity",
			held: func(r *Request) { r.Evidence.InstanceID = "" },
			near: func(r *Request) { r.Evidence.InstanceID = "i-1" },
		},
		{
			name: "provider names another instance", guard: "identity",
			held: func(r *Request) { r.Witnesses[2].InstanceID = "i-2" },
			near: func(r *Request) { r.Witnesses[2].InstanceID = "i-1" },
		},
		{
			name: "report names another boot", guard: "identity",
			held: func(r *Request) { r.Witnesses[0].BootID = "b-2" },
			near: func(r *Request) { r.Witnesses[0].BootID = "b-1" },
		},
		{
			name: "orchestrator does not answer", guard: "identity",
			held: func(r *Request) { r.Witnesses[1].Known = false },
			near: func(r *Request) { r.Witnesses[1].Known = true },
		},
		{
			name: "nobody names the instance", guard: "identity",
			held: func(r *Request) { r.Witnesses = r.Witnesses[1:2] },
			near: func(r *Request) { r.Witnesses[0].InstanceID = "i-1" },
		},
		{
			name: "simulated evidence, real call", guard: "simulated",
			held: func(r *Request) { r.Evidence.Simulated = true },
			near: func(r *Request) { r.Simulated = true },
		},
		{
			name: "isolated by others", guard: "others",
			held: func(r *Request) { r.IsolatedByOthers = true },
			near: func(r *Request) { r.IsolatedByOthers = false },
		},
		{
			name: "protected", guard: "protected",
			held: func(r *Request) { r.Node = "slurmctld" },
			near: func(r *Request) { r.Node = "slurmctld2" },
		},
		{
			name: "common cause", guard: "common_cause",
			held: func(r *Request) {
				r.Fleet.Together = map[fault.Family]time.Time{fault.FamilyFabric: now.Add(-4 * time.Minute)}
			},
			near:  func(r *Request) { r.Fleet.Together[fault.FamilyFabric] = now.Add(-timing.CommonCauseWindow) },
			until: now.Add(time.Minute),
		},
		{
			name: "common cause of another family", guard: "common_cause",
			held:  func(r *Request) { r.Fleet.Together = map[fault.Family]time.Time{fault.FamilyFabric: now} },
			near:  func(r *Request) { r.Evidence.Family = fault.FamilyGPU },
			until: now.Add(timing.CommonCauseWindow),
		},
		{
			name: "common cause wait", guard: "common_cause_wait",
			held:  func(r *Request) { r.Evidence.Since = now.Add(-timing.CommonCauseWait + time.Second) },
			near:  func(r *Request) { r.Evidence.Since = now.Add(-timing.CommonCauseWait) },
			until: now.Add(time.Second),
		},
		{
			name: "common cause wait of a family that does not wait", guard: "common_cause_wait",
			held:  func(r *Request) { r.Evidence.Since = now },
			near:  func(r *Request) { r.Evidence.Family = fault.FamilyGPU },
			until: now.Add(timing.CommonCauseWait),
		},
		{
			name: "cool-down", guard: "cool_down",
			held:  func(r *Request) { r.LastTouched = now.Add(-timing.CoolDown + time.Second) },
			near:  func(r *Request) { r.LastTouched = now.Add(-timing.CoolDown) },
			until: now.Add(time.Second),
		},
		{
			name: "replaced already", guard: "once",
			held: func(r *Request) {
				r.Fleet.Acts = []Act{{Node: "n1", Remedy: fault.Replace, InstanceID: "i-1", At: now.Add(-48 * time.Hour)}}
			},
			near: func(r *Request) { r.Fleet.Acts[0].InstanceID = "i-0" },
		},
		{
			name: "reboot of what was replaced", guard: "once",
			held: func(r *Request) {
				r.Remedy = fault.Reboot
				r.Fleet.Acts = []Act{{Node: "n1", Remedy: fault.Replace, InstanceID: "i-1", At: now.Add(-48 * time.Hour)}}
			},
			near: func(r *Request) { r.Fleet.Acts[0].Remedy = fault.Reboot; r.Fleet.Acts[0].BootID = "b-0" },
		},
		{
			name: "rebooted already in this boot", guard: "once",
			held: func(r *Request) {
				r.Remedy = fault.Reboot
				r.Fleet.Acts = []Act{{Node: "n1", Remedy: fault.Reboot, InstanceID: "i-1", BootID: "b-1", At: now.Add(-48 * time.Hour)}}
			},
			near: func(r *Request) { r.Fleet.Acts[0].BootID = "b-0" },
		},
		{
			name: "in flight", guard: "budget",
			held: func(r *Request) { r.Fleet.InRepair = []string{"n2", "n3"} },
			near: func(r *Request) { r.Fleet.InRepair = []string{"n2"} },
		},
		{
			name: "isolated at once", guard: "budget",
			held: func(r *Request) { r.Purpose, r.Fleet.Isolated = Isolate, []string{"n2", "n3", "n4"} },
			near: func(r *Request) { r.Fleet.Isolated = []string{"n2", "n3"} },
		},
		{
			name: "per window", guard: "budget",
			held:  func(r *Request) { r.Fleet.Acts = acts("n9", time.Hour, 2*time.Hour, 3*time.Hour, 23*time.Hour) },
			near:  func(r *Request) { r.Fleet.Acts[3].At = now.Add(-24 * time.Hour) },
			until: now.Add(time.Hour),
		},
		{
			name: "per node", guard: "budget",
			held:  func(r *Request) { r.Fleet.Acts = acts("n1", time.Hour, 2*time.Hour) },
			near:  func(r *Request) { r.Fleet.Acts[0].Node = "n2" },
			until: now.Add(22 * time.Hour),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chain := Standard(testPolicy())
			r := allowed()
			tc.held(r)
			holds := chain.Check(r)
			if len(holds) != 1 || holds[0].Guard != tc.guard || !holds[0].Until.Equal(tc.until) {
				t.Errorf("Check(held) = %+v, want one hold of %s until %s", holds, tc.guard, tc.until)
			}
			tc.near(r)
			if holds := chain.Check(r); len(holds) != 0 {
				t.Errorf("Check(near miss) = %+v, want no hold", holds)
			}
		})
	}
}

func TestAllowedIsAllowed(t *testing.T) {
	if holds := Standard(testPolicy()).Check(allowed()); len(holds) != 0 {
		t.Errorf("Check(allowed) = %+v, want no hold", holds)
	}
}

// The budgets bound what they are about and nothing else.
func TestBudgetByPurpose(t *testing.T) {
	for _, tc := range []struct {
		purpose Purpose
		want    []string
	}{
		{Isolate, []string{"budget"}},
		{Stop, nil},
		{Repair, []string{"budget"}},
	} {
		r := allowed()
		r.Purpose = tc.purpose
		r.Fleet.InRepair = []string{"n2", "n3"}
		r.Fleet.Isolated = []string{"n2", "n3", "n4"}
		if got := names(Standard(testPolicy()).Check(r)); !slices.Equal(got, tc.want) {
			t.Errorf("Check(%s) is held by %v, want %v", tc.purpose, got, tc.want)
		}
	}
}

// A chain asks every guard, so that a person sees all that stands in the way.
func TestChainReturnsEveryHold(t *testing.T) {
	r := allowed()
	r.Fleet.KillSwitch, r.Mode, r.Node = "drill", policy.Observe, "slurmctld"
	want := []string{"kill_switch", "mode", "protected"}
	if got := names(Standard(testPolicy()).Check(r)); !slices.Equal(got, want) {
		t.Errorf("Check is held by %v, want %v", got, want)
	}
}

// The zero request carries no fact at all: unknown must never be allowed.
func TestZeroRequestIsHeld(t *testing.T) {
	for _, purpose := range []Purpose{Isolate, Stop, Repair} {
		got := names(Standard(testPolicy()).Check(&Request{Now: now, Purpose: purpose}))
		for _, want := range []string{"mode", "evidence", "freshness", "identity"} {
			if !slices.Contains(got, want) {
				t.Errorf("Check(zero %s) is held by %v, want %s among them", purpose, got, want)
			}
		}
	}
}

func TestNamesAreComplete(t *testing.T) {
	if got, want := len(Names), len(Standard(testPolicy())); got != want {
		t.Errorf("there are %d names for %d guards", got, want)
	}
}

func names(holds []Hold) []string {
	var n []string
	for _, h := range holds {
		n = append(n, h.Guard)
	}
	return n
}

func TestFindTogether(t *testing.T) {
	at := func(node string, f fault.Family, minute float64) Sighting {
		return Sighting{Node: node, Family: f, Since: now.Add(time.Duration(minute * float64(time.Minute)))}
	}
	const fabric, gpu = fault.FamilyFabric, fault.FamilyGPU
	for _, tc := range []struct {
		name string
		in   []Sighting
		want map[fault.Family]int
	}{
		{"none", nil, map[fault.Family]int{}},
		{"three at once", []Sighting{at("a", fabric, 0), at("b", fabric, 1), at("c", fabric, 5)}, map[fault.Family]int{fabric: 3}},
		{"the third a moment too late", []Sighting{at("a", fabric, 0), at("b", fabric, 1), at("c", fabric, 5.01)}, map[fault.Family]int{}},
		{"three findings of two nodes", []Sighting{at("a", fabric, 0), at("a", fabric, 1), at("b", fabric, 2)}, map[fault.Family]int{}},
		{"three nodes of two families", []Sighting{at("a", fabric, 0), at("b", fabric, 1), at("c", gpu, 2)}, map[fault.Family]int{}},
		{"an old one does not hide three new ones", []Sighting{at("z", gpu, -600), at("a", gpu, 0), at("b", gpu, 1), at("c", gpu, 2)}, map[fault.Family]int{gpu: 3}},
		{"many that began apart", []Sighting{at("a", gpu, 0), at("b", gpu, 6), at("c", gpu, 12), at("d", gpu, 18)}, map[fault.Family]int{}},
		{"a node seen twice leaves the window once", []Sighting{at("a", gpu, 0), at("a", gpu, 4), at("b", gpu, 6), at("c", gpu, 8)}, map[fault.Family]int{gpu: 3}},
		{"order does not matter", []Sighting{at("c", fabric, 5), at("a", fabric, 0), at("b", fabric, 1)}, map[fault.Family]int{fabric: 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, FindTogether(tc.in, 3, 5*time.Minute)); diff != "" {
				t.Errorf("FindTogether differs (-want +got):\n%s", diff)
			}
		})
	}
}
