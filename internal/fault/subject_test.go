package fault

import (
	"strings"
	"testing"
)

func TestNormalizePCI(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"0000:53:00", "0000:53:00"},
		{"PCI:0000:53:00", "0000:53:00"},
		{"0000:53:00.0", "0000:53:00"},
		{"PCI:0000:53:00.7", "0000:53:00"},
		{"00000000:53:00.0", "0000:53:00"},
		{"00010000:53:00.0", "10000:53:00"},
		{"0000:AB:1F", "0000:ab:1f"},
		{"53:00", "0000:53:00"},
		{"53:00.0", "0000:53:00"},
		{"", ""},
		{"PCI:", ""},
		{"0000:53", ""},
		{"0000:53:00.8", ""},
		{"0000:53:00.00", ""},
		{"0000:53:00.", ""},
		{"000:53:00", ""},
		{"000000000:53:00", ""},
		{"0000:53:0g", ""},
		{"0000:5:00", ""},
		{"0000:53:00:00", ""},
		{"0000:53:00 ", ""},
		{" 0000:53:00", ""},
	} {
		got, ok := NormalizePCI(tc.in)
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("NormalizePCI(%q) = %q, %t, want %q", tc.in, got, ok, tc.want)
		}
	}
}

func FuzzNormalizePCI(f *testing.F) {
	for _, s := range []string{"PCI:0000:53:00.0", "00000000:53:00.0", "53:00", "::", "00010000:53:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := NormalizePCI(s)
		if !ok {
			if got != "" {
				t.Errorf("NormalizePCI(%q) = %q, false", s, got)
			}
			return
		}
		if again, ok := NormalizePCI(got); !ok || again != got {
			t.Errorf("NormalizePCI(%q) = %q, %t, want it unchanged", got, again, ok)
		}
		if got != strings.ToLower(got) || len(got) > len("00000000:53:00") {
			t.Errorf("NormalizePCI(%q) = %q", s, got)
		}
	})
}

func TestSubjectKey(t *testing.T) {
	zero, three := 0, 3
	for _, tc := range []struct {
		s    Subject
		want string
		text string
	}{
		{Subject{Node: "n"}, "node", "n"},
		{Subject{Node: "n", PCI: "0000:53:00"}, "node", "n"},
		{Subject{Node: "n", Device: DeviceGPU, PCI: "0000:53:00"}, "gpu/0000:53:00", "n gpu (0000:53:00)"},
		{Subject{Node: "n", Device: DeviceGPU, PCI: "0000:53:00", UUID: "GPU-a", Index: &three, Port: "12"}, "gpu/0000:53:00", "n gpu 3 (0000:53:00) link 12"},
		{Subject{Node: "n", Device: DeviceGPU, UUID: "GPU-a", Index: &three}, "gpu/GPU-a", "n gpu 3"},
		{Subject{Node: "n", Device: DeviceNeuron, Index: &zero}, "neuron/0", "n neuron 0"},
		{Subject{Node: "n", Device: DeviceDisk, Port: "md0"}, "disk/md0", "n disk md0"},
		{Subject{Node: "n", Device: DeviceNeuron}, "neuron", "n neuron"},
	} {
		if got := tc.s.Key(); got != tc.want {
			t.Errorf("%+v.Key() = %q, want %q", tc.s, got, tc.want)
		}
		if got := tc.s.String(); got != tc.text {
			t.Errorf("%+v.String() = %q, want %q", tc.s, got, tc.text)
		}
	}
}
