package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	for _, tc := range []struct {
		name, raw string
		want      Record
	}{
		{"kernel", "6,3964,206764307,-;nvidia-nvswitch2: open (major=510)\n",
			Record{Level: 6, Sequence: 3964, Uptime: 206764307 * time.Microsecond, Message: []byte("nvidia-nvswitch2: open (major=510)")}},
		{"caller", "4,12,1,-,caller=T1234;x",
			Record{Level: 4, Sequence: 12, Uptime: time.Microsecond, Message: []byte("x")}},
		{"fragment", "4,12,1,c;x", Record{Level: 4, Sequence: 12, Uptime: time.Microsecond, Fragment: true, Message: []byte("x")}},
		{"fragment of an older kernel", "4,12,1,+;x", Record{Level: 4, Sequence: 12, Uptime: time.Microsecond, Fragment: true, Message: []byte("x")}},
		{"user facility", "12,5,9,-;echoed", Record{Facility: 1, Level: 4, Sequence: 5, Uptime: 9 * time.Microsecond, Message: []byte("echoed")}},
		{"dictionary", "7,160,424069,-;pci_root PNP0A03:00: host bridge\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
			Record{Level: 7, Sequence: 160, Uptime: 424069 * time.Microsecond, Message: []byte("pci_root PNP0A03:00: host bridge")}},
		{"escapes", `4,1,1,-;a\x0ab\x5cc\x09\xe2\x82\xac`, Record{Level: 4, Sequence: 1, Uptime: time.Microsecond, Message: []byte("a\nb\\c\t€")}},
		{"no escapes", `4,1,1,-;\x4 \xzz \`, Record{Level: 4, Sequence: 1, Uptime: time.Microsecond, Message: []byte(`\x4 \xzz \`)}},
		{"semicolons", "4,1,1,-;a;b", Record{Level: 4, Sequence: 1, Uptime: time.Microsecond, Message: []byte("a;b")}},
		{"empty message", "4,1,1,-;", Record{Level: 4, Sequence: 1, Uptime: time.Microsecond, Message: []byte{}}},
		{"no flags", "4,1,1;x", Record{Level: 4, Sequence: 1, Uptime: time.Microsecond, Message: []byte("x")}},
		{"largest sequence", "4,18446744073709551615,1,-;x", Record{Level: 4, Sequence: 1<<64 - 1, Uptime: time.Microsecond, Message: []byte("x")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseRecord([]byte(tc.raw))
			if err != nil {
				t.Fatalf("ParseRecord(%q): %v", tc.raw, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("ParseRecord(%q) differs (-want +got):\n%s", tc.raw, diff)
			}
		})
	}
}

func TestParseRecordRefuses(t *testing.T) {
	for _, tc := range []struct{ raw, want string }{
		{"", "no ';'"},
		{"[ 12.3] NVRM: Xid (PCI:0000:53:00): 79", "no ';'"},
		{";x", "priority: missing"},
		{"4;x", "sequence: missing"},
		{"4,1;x", "time: missing"},
		{"-4,1,1,-;x", "priority"},
		{"4,1a,1,-;x", "sequence"},
		{"4,1,18446744073709551615,-;x", "time"},
		{"4,18446744073709551616,1,-;x", "too large"},
		{"4294967296,1,1,-;x", "too large"},
	} {
		if _, err := ParseRecord([]byte(tc.raw)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("ParseRecord(%q) = %v, want an error that says %q", tc.raw, err, tc.want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, raw := range []string{"6,3964,206764307,-;nvidia-nvswitch2: open (major=510)\n", "4,1,1,c,caller=C5;a\\x0ab\n SUBSYSTEM=pci\n", "12,5,9,-;", ";", ",,,;"} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseRecord(raw)
		if err == nil && (len(r.Message) > len(raw) || r.Uptime < 0 || r.Level > 7) {
			t.Errorf("ParseRecord(%q) = %+v", raw, r)
		}
	})
}
