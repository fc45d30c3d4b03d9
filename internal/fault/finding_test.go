package fault

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAuthorises(t *testing.T) {
	sound := func(change func(*Finding)) Finding {
		f := Finding{State: Bad, Evidence: []Evidence{{Authority: ByNobody}, {Authority: ByKernel}}}
		change(&f)
		return f
	}
	for _, tc := range []struct {
		name   string
		change func(*Finding)
		want   string // why not; empty if it authorises
	}{
		{"sound", func(f *Finding) {}, ""},
		{"simulated", func(f *Finding) { f.Simulated = true }, ""}, // the actuator's to refuse
		{"ok", func(f *Finding) { f.State = OK }, "state is ok"},
		{"unknown", func(f *Finding) { f.State = Unknown }, "state is unknown"},
		{"history", func(f *Finding) { f.History = true }, "happened in an earlier boot"},
		{"provisional", func(f *Finding) { f.Provisional = true }, "not confirmed yet"},
		{"explained", func(f *Finding) { f.SubsumedBy = "x" }, "explained by x"},
		{"nobody's word", func(f *Finding) { f.Evidence = f.Evidence[:1] }, "no evidence that a user of the node could not have written"},
		{"no evidence", func(f *Finding) { f.Evidence = nil }, "no evidence that a user of the node could not have written"},
	} {
		f := sound(tc.change)
		if ok, why := f.Authorises(); ok != (tc.want == "") || why != tc.want {
			t.Errorf("%s: Authorises() = %t, %q, want %q", tc.name, ok, why, tc.want)
		}
	}
}

func TestNewID(t *testing.T) {
	gpu := Subject{Node: "n1", InstanceID: "i-1", Device: DeviceGPU, PCI: "0000:53:00"}
	id := NewID(XidOffTheBus, gpu, "boot-1")
	if want := "nvidia.xid.79-"; !strings.HasPrefix(id, want) || len(id) != len(want)+12 {
		t.Errorf("NewID = %q, want %q and 12 hex digits", id, want)
	}
	known := gpu
	index := 3
	known.UUID, known.Index, known.Port = "GPU-a", &index, "12"
	if got := NewID(XidOffTheBus, known, "boot-1"); got != id {
		t.Errorf("NewID of the same device under more names = %q, want %q", got, id)
	}
	for name, other := range map[string]string{
		"kind":     NewID(XidNVLink, gpu, "boot-1"),
		"boot":     NewID(XidOffTheBus, gpu, "boot-2"),
		"device":   NewID(XidOffTheBus, Subject{Node: "n1", InstanceID: "i-1", Device: DeviceGPU, PCI: "0000:54:00"}, "boot-1"),
		"instance": NewID(XidOffTheBus, Subject{Node: "n1", InstanceID: "i-2", Device: DeviceGPU, PCI: "0000:53:00"}, "boot-1"),
		"node":     NewID(XidOffTheBus, Subject{Node: "n2", InstanceID: "i-1", Device: DeviceGPU, PCI: "0000:53:00"}, "boot-1"),
	} {
		if other == id {
			t.Errorf("NewID of another %s is the same", name)
		}
	}
}

func TestLadder(t *testing.T) {
	ladder := []Action{None, RestartApp, ResetDevice, Reboot, Replace}
	for i, a := range ladder {
		if a.Rung() != i {
			t.Errorf("%s.Rung() = %d, want %d", a, a.Rung(), i)
		}
		if got, want := a.Destructive(), i >= 3; got != want {
			t.Errorf("%s.Destructive() = %t, want %t", a, got, want)
		}
	}
	for _, a := range []Action{Investigate, "", "explode"} {
		if a.Rung() != -1 || a.Destructive() {
			t.Errorf("%q.Rung() = %d, Destructive() = %t, want -1, false", a, a.Rung(), a.Destructive())
		}
	}
	severities := []Severity{"", Info, Warning, Error, Fatal}
	for i, s := range severities {
		if s.Rank() != i {
			t.Errorf("%q.Rank() = %d, want %d", s, s.Rank(), i)
		}
	}
}

func TestUnknownWordsAreUnknown(t *testing.T) {
	for word, want := range map[string]State{"ok": OK, "bad": Bad, "unknown": Unknown, "OK": Unknown, "": Unknown, "fine": Unknown} {
		var s State
		if err := json.Unmarshal([]byte(`"`+word+`"`), &s); err != nil || s != want {
			t.Errorf("state %q = %q, %v, want %q", word, s, err, want)
		}
	}
	for word, want := range map[string]Action{"replace": Replace, "none": None, "investigate": Investigate, "Replace": Investigate, "": Investigate} {
		var a Action
		if err := json.Unmarshal([]byte(`"`+word+`"`), &a); err != nil || a != want {
			t.Errorf("action %q = %q, %v, want %q", word, a, err, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", 512), strings.Repeat("x", 513), strings.Repeat("€", 400), strings.Repeat("\xff", 600), strings.Repeat("\x80", 600)} {
		got := Clip(text)
		if len(got) > maxEvidenceText {
			t.Errorf("Clip of %d bytes has %d, want at most %d", len(text), len(got), maxEvidenceText)
		}
		if len(text) <= maxEvidenceText && got != text {
			t.Errorf("Clip(%q) = %q, want it unchanged", text, got)
		}
		if utf8.ValidString(text) && !utf8.ValidString(got) {
			t.Errorf("Clip of valid text %.20q… is not valid", text)
		}
	}
}
