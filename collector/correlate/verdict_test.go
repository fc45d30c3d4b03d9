package correlate

import (
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

var (
	well    = Health{State: fault.OK, Reasons: []string{"nothing wrong"}}
	ill     = Health{State: fault.Bad, Reasons: []string{"nvidia.gpu.thermal: n7 gpu 0"}}
	unclear = Health{State: fault.Unknown, Reasons: []string{"n7 last reported 90s ago"}}
	agreed  = Presence{Agreed: true}
)

// Each verdict, and what one value less makes of it.
func TestJudge(t *testing.T) {
	disputed := Presence{Disputed: true, Reason: "the post puts rank 7 on n7, the metric store on n8"}
	tests := []struct {
		name     string
		ranks    []Rank
		presence Presence
		health   Health
		want     Word
		reason   string
	}{
		{"busy", steady(1600, 1.8), agreed, well, Busy, "the load accounts for it"},
		{"busy needs no health", steady(1600, 1.8), agreed, unclear, Busy, "the load accounts for it"},
		{"busy needs no agreed place", steady(1600, 1.8), Presence{}, unclear, Busy, "the load accounts for it"},
		{"near miss of busy: 0.1 ms over what load explains", steady(1600, 1.9801), agreed, well, Unknown, "nothing is established against the device"},
		{"near miss of busy: not slow", steady(880, 1.1), agreed, ill, Normal, "times the median"},

		{"sick", steady(800, 1.5), agreed, ill, Sick, "the load does not account for it"},
		{"near miss of sick: nothing against the device", steady(800, 1.5), agreed, well, Unknown, "nothing wrong"},
		{"near miss of sick: health unknown", steady(800, 1.5), agreed, unclear, Unknown, "last reported 90s ago"},
		{"near miss of sick: not slow", even(800, 1.1), agreed, ill, Normal, "times the median"},
		{"near miss of sick: peers scatter as widely", group(800, 0.8, 800, 0.9, 800, 0.9, 800, 1, 800, 1.1, 800, 1.1, 800, 1.2, 800, 1.7), agreed, ill, Unknown, "scatter as widely"},

		{"both: slower than its high load explains, and ill", steady(1600, 3), agreed, ill, Both, "accounts for part of it"},
		{"both: its load explains the time, but it is ill", steady(1600, 1.8), agreed, ill, Both, "but:"},
		{"near miss of both: health unknown", steady(1600, 3), agreed, unclear, Unknown, "nothing is established"},

		{"a disputed place", steady(1600, 1.8), disputed, ill, Unknown, "the metric store on n8"},
		{"a disputed place of a rank that is not slow", steady(800, 1), disputed, well, Unknown, "the metric store on n8"},
		{"too few peers", group(1, 1, 1, 9), agreed, ill, Unknown, "only 2 ranks"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := Compare(DefaultConfig(), test.ranks)
			got, reasons := Judge(all[len(all)-1], test.presence, test.health)
			if got != test.want || !strings.Contains(strings.Join(reasons, "\n"), test.reason) {
				t.Errorf("Judge(%+v) = %s, %q, want %s with %q", all[len(all)-1], got, reasons, test.want, test.reason)
			}
		})
	}
}

// No combination calls a rank sick, or both, without a witness against it.
func TestOnlyAWitnessMakesSick(t *testing.T) {
	bools := []bool{false, true}
	for _, slow := range bools {
		for _, explained := range bools {
			for _, loaded := range bools {
				for _, significant := range bools {
					for _, health := range []Health{well, unclear, {}} {
						c := Comparison{Comparable: true, Slow: slow, Explained: explained, Loaded: loaded, Significant: significant}
						if got, _ := Judge(c, agreed, health); got == Sick || got == Both {
							t.Errorf("Judge(%+v, %s) = %s", c, health.State, got)
						}
					}
				}
			}
		}
	}
}

func TestLocate(t *testing.T) {
	claim := Place{Job: "42", Rank: 3, Node: "n1", DeviceUUID: "GPU-3"}
	seen := func(p Place) Sightings {
		s := Sightings{}
		s.Add(Sighting{Source: "agent of " + p.Node, Place: p})
		return s
	}
	tests := []struct {
		name             string
		claim            Place
		seen             []Sightings
		agreed, disputed bool
		device           string
	}{
		{"seen there", claim, []Sightings{seen(claim)}, true, false, "GPU-3"},
		{"seen there twice", claim, []Sightings{seen(claim), seen(claim)}, true, false, "GPU-3"},
		{"on another node", claim, []Sightings{seen(Place{"42", 3, "n2", "GPU-3"})}, false, true, ""},
		{"on another device", claim, []Sightings{seen(Place{"42", 3, "n1", "GPU-4"})}, false, true, ""},
		{"one source agrees, one does not", claim, []Sightings{seen(claim), seen(Place{"42", 3, "n1", "GPU-4"})}, false, true, ""},
		{"another rank is there", claim, []Sightings{seen(Place{"42", 4, "n1", "GPU-3"})}, false, false, "GPU-3"},
		{"another job is there", claim, []Sightings{seen(Place{"43", 3, "n1", "GPU-3"})}, false, false, "GPU-3"},
		{"nobody saw it", claim, nil, false, false, "GPU-3"},
		{"no job", Place{"", 3, "n1", "GPU-3"}, []Sightings{seen(Place{"", 3, "n1", "GPU-3"})}, false, false, "GPU-3"},
		{"the device comes from the source", Place{"42", 3, "n1", ""}, []Sightings{seen(claim)}, true, false, "GPU-3"},
	}
	for _, test := range tests {
		got := Locate(test.claim, test.seen...)
		if got.Agreed != test.agreed || got.Disputed != test.disputed || got.DeviceUUID != test.device || !got.Agreed && got.Reason == "" {
			t.Errorf("%s: Locate(%+v) = %+v, want agreed %v, disputed %v, device %q", test.name, test.claim, got, test.agreed, test.disputed, test.device)
		}
	}
}

func node(s fault.NodeStatus) *fault.NodeStatus {
	s.Node = "n1"
	s.Jobs = []fault.Process{{Job: "42", Rank: new(3), DeviceUUID: "GPU-3", DeviceIndex: 3}}
	for i := range s.Findings {
		s.Findings[i].Subject.Node = "n1"
	}
	return &s
}

func TestNodeHealth(t *testing.T) {
	gpu := func(uuid, pci string, index *int) fault.Subject {
		return fault.Subject{Device: fault.DeviceGPU, UUID: uuid, PCI: pci, Index: index}
	}
	bad := func(kind fault.Kind, s fault.Subject) fault.Finding {
		return fault.Finding{Kind: kind, State: fault.Bad, Severity: fault.Error, Subject: s}
	}
	change := func(f fault.Finding, c func(*fault.Finding)) fault.Finding { c(&f); return f }
	mine := bad(fault.XidDoubleBitECC, gpu("GPU-3", "", nil))
	tests := []struct {
		name     string
		state    fault.State
		findings []fault.Finding
		want     fault.State
	}{
		{"nothing", fault.OK, nil, fault.OK},
		{"the node does not know itself", fault.Unknown, nil, fault.Unknown},
		{"this device, by UUID", fault.Bad, []fault.Finding{mine}, fault.Bad},
		{"this device, although the node is unknown otherwise", fault.Unknown, []fault.Finding{mine}, fault.Bad},
		{"another device", fault.Bad, []fault.Finding{bad(fault.XidDoubleBitECC, gpu("GPU-4", "", nil))}, fault.OK},
		{"this device, by PCI address", fault.Bad, []fault.Finding{bad(fault.XidNVLink, gpu("", "0000:53:00", nil))}, fault.Bad},
		{"another PCI address", fault.Bad, []fault.Finding{bad(fault.XidNVLink, gpu("", "0000:54:00", nil))}, fault.OK},
		{"this device, by index", fault.Bad, []fault.Finding{bad(fault.XidNVLink, gpu("", "", new(3)))}, fault.Bad},
		{"another index", fault.Bad, []fault.Finding{bad(fault.XidNVLink, gpu("", "", new(4)))}, fault.OK},
		{"some device", fault.Bad, []fault.Finding{bad(fault.XidNVLink, gpu("", "", nil))}, fault.Unknown},
		{"the node", fault.Bad, []fault.Finding{bad(fault.NodeSilent, fault.Subject{})}, fault.Bad},
		{"its network", fault.Bad, []fault.Finding{bad(fault.EFAAdminQueue, fault.Subject{Device: fault.DeviceEFA})}, fault.Bad},
		{"the agent", fault.OK, []fault.Finding{bad(fault.AgentSilent, fault.Subject{Device: fault.DeviceAgent})}, fault.OK},
		{"the application's fault", fault.OK, []fault.Finding{bad(fault.XidMMUFault, gpu("GPU-3", "", nil))}, fault.OK},
		{"a kind of a later version", fault.Bad, []fault.Finding{bad("nvidia.xid.999", gpu("GPU-3", "", nil))}, fault.Bad},
		{"for information", fault.OK, []fault.Finding{change(mine, func(f *fault.Finding) { f.Severity = fault.Info })}, fault.OK},
		{"cleared", fault.OK, []fault.Finding{change(mine, func(f *fault.Finding) { f.State = fault.OK })}, fault.OK},
		{"of an earlier boot", fault.OK, []fault.Finding{change(mine, func(f *fault.Finding) { f.History = true })}, fault.OK},
		{"not confirmed", fault.OK, []fault.Finding{change(mine, func(f *fault.Finding) { f.Provisional = true })}, fault.Unknown},
		{"unknown", fault.OK, []fault.Finding{change(mine, func(f *fault.Finding) { f.State = fault.Unknown })}, fault.Unknown},
	}
	catalogue := fault.NewCatalogue(fault.DefaultTiming())
	for _, test := range tests {
		s := node(fault.NodeStatus{State: test.state, Findings: test.findings})
		got := NodeHealth(catalogue, s, Place{Job: "42", Rank: 3, Node: "n1", DeviceUUID: "GPU-3"}, "0000:53:00")
		if got.State != test.want || len(got.Reasons) == 0 {
			t.Errorf("%s: NodeHealth() = %+v, want %s", test.name, got, test.want)
		}
	}
}

func TestWitnessStatus(t *testing.T) {
	received := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	w := Witness{At: received, StaleAfter: 30 * time.Second, Nodes: &fault.NodeList{Cluster: "c", Nodes: []fault.NodeStatus{
		{Node: "n1", ReportAgeSeconds: 10}, {Node: "n2", ReportAgeSeconds: 31}, {Node: "n3", ReportAgeSeconds: -1},
	}}}
	tests := []struct {
		node  string
		after time.Duration
		known bool
		why   string
	}{
		{"n1", 0, true, ""},
		{"n1", 20 * time.Second, true, ""},
		{"n1", 21 * time.Second, false, "n1 last reported 31s ago"},
		{"n1", 31 * time.Second, false, "node health is 31s old"},
		{"n2", 0, false, "n2 last reported 31s ago"},
		{"n3", 0, false, "n3 never reported"},
		{"n4", 0, false, "n4 is not among the nodes of c"},
	}
	for _, test := range tests {
		s, why := w.Status(test.node, received.Add(test.after))
		if (s != nil) != test.known || why != test.why {
			t.Errorf("Status(%s) after %s = %v, %q, want known %v, %q", test.node, test.after, s, why, test.known, test.why)
		}
	}
	if s, why := (Witness{StaleAfter: time.Second}).Status("n1", received); s != nil || why == "" {
		t.Errorf("Status() without a list = %v, %q, want unknown", s, why)
	}
}

func TestDeviceHealth(t *testing.T) {
	device := func(clock, temperature, ecc float64) Device {
		return Device{SMClock: new(clock), MaxSMClock: new(1980.0), TemperatureCelsius: new(temperature), DoubleBitECC: new(ecc)}
	}
	peers := []Device{device(1980, 60, 0), device(1980, 60, 0), device(1900, 60, 0)}
	without := func(d Device, c func(*Device)) Device { c(&d); return d }
	tests := []struct {
		name   string
		device Device
		peers  []Device
		want   fault.State
	}{
		{"well", device(1980, 60, 0), peers, fault.OK},
		{"clock more than 10 % below its peers'", device(1781, 60, 0), peers, fault.Bad},
		{"near miss: 10 %", device(1782, 60, 0), peers, fault.OK},
		{"all are slowed alike", device(1200, 60, 0), []Device{device(1210, 60, 0), device(1190, 60, 0)}, fault.OK},
		{"at the temperature limit", device(1980, 87, 0), peers, fault.Bad},
		{"near miss: below it", device(1980, 86.9, 0), peers, fault.OK},
		{"an uncorrectable error", device(1980, 60, 1), peers, fault.Bad},
		{"one peer is no peer group", device(1000, 60, 0), peers[:1], fault.Unknown},
		{"but heat needs none", device(1000, 90, 0), peers[:1], fault.Bad},
		{"no clock", without(device(0, 60, 0), func(d *Device) { d.SMClock = nil }), peers, fault.Unknown},
		{"no temperature", without(device(1980, 0, 0), func(d *Device) { d.TemperatureCelsius = nil }), peers, fault.Unknown},
		{"no error count", without(device(1980, 60, 0), func(d *Device) { d.DoubleBitECC = nil }), peers, fault.Unknown},
		{"nothing", Device{}, peers, fault.Unknown},
	}
	for _, test := range tests {
		if got := DeviceHealth(DefaultConfig(), test.device, test.peers); got.State != test.want || len(got.Reasons) == 0 {
			t.Errorf("%s: DeviceHealth() = %+v, want %s", test.name, got, test.want)
		}
	}
}

func TestCombine(t *testing.T) {
	tests := []struct {
		witnesses []Health
		want      fault.State
	}{
		{[]Health{well, well}, fault.OK},
		{[]Health{well, unclear}, fault.Unknown},
		{[]Health{unclear, ill}, fault.Bad},
		{[]Health{well, ill}, fault.Bad},
		{nil, fault.Unknown},
	}
	for _, test := range tests {
		if got := Combine(test.witnesses...); got.State != test.want || len(got.Reasons) == 0 {
			t.Errorf("Combine(%v) = %+v, want %s", test.witnesses, got, test.want)
		}
	}
}
