package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/internal/fault"
)

var logged = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

// said is an observation in one line.
func said(o health.Observation) string {
	s := fmt.Sprintf("%s %s %s", o.Kind, o.State, o.Subject.Key())
	if o.Subject.Port != "" {
		s += " port=" + o.Subject.Port
	}
	for _, v := range []string{string(o.Clear), string(o.Action), string(o.Severity)} {
		if v != "" {
			s += " " + v
		}
	}
	return s
}

func TestMatch(t *testing.T) {
	const (
		off  = "nvidia.xid.79 bad gpu/0000:91:00"
		link = "nvidia.xid.74 bad gpu/0003:00:00"
		efa  = "efa.admin_queue bad efa/0000:a0:1a"
		ro   = "host.disk.read_only bad disk/md0 port=md0"
		ost  = "lustre.connection bad lustre/zmuqnb4v-OST0002 port=zmuqnb4v-OST0002"
	)
	for _, tc := range []struct {
		message string
		want    string // empty for nothing
	}{
		// Xid, in every form of the driver.
		{"NVRM: Xid (PCI:0000:91:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", off},
		{"NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.", off},
		{"NVRM: Xid (PCI:0000:91:00): 79", off},
		{"NVRM: Xid (PCI:0000:91:00): 79,", off},
		{"NVRM: Xid (PCI:0000:91:00.0): 79, pid=12, name=a", off},
		{"NVRM: Xid (PCI:00000000:91:00.0): 79, pid=12, name=a", off},
		{"NVRM: Xid (0000:91:00): 79, GPU has fallen off the bus.", off},
		{"NVRM: Xid (91:00): 79, GPU has fallen off the bus.", off},
		{"NVRM: Xid (PCI:0000:91:00 GPU-I:05): 79, pid=7194", off},
		{"NVRM: Xid (PCI:0000:91:00 GPU-I:05 GPU-CI:00): 79, pid=7194", off},
		{"NVRM: Xid (PCI:0000:91:00): 48, pid=00012, name=nvc:[driver], An uncorrectable double bit error (DBE) has been detected", "nvidia.xid.48 bad gpu/0000:91:00"},
		{"NVRM: Xid (PCI:000d:00:00): 31, pid=3234, name=ray::WorkerDict, Ch 00000008, intr 00000000. MMU Fault: ENGINE CE2", "nvidia.xid.31 bad gpu/000d:00:00"},
		{"NVRM: Xid (PCI:0003:00:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)", link + " port=14"},
		{"NVRM: Xid (PCI:0003:00:00): 74, NVLink: fatal error detected on li", link},
		// Near misses of Xid.
		{"NVRM: Xid (PCI:0000:91:00): 78, GPU has fallen off the bus.", ""},
		{"NVRM: Xid (PCI:0000:91:00): 790, pid=12", ""},
		{"NVRM: Xid (PCI:0000:91:00): 79x", ""},
		{"NVRM: Xid (PCI:0000:91:00): ", ""},
		{"NVRM: Xid (PCI:0000:91:00", ""},
		{"NVRM: Xid (PCI:0000:9z:00): 79", ""},
		{"NVRM: Xid (PCI:0000:91:00): 99999999999999999999", ""},
		{"nvrm: Xid (PCI:0000:91:00): 79", ""},
		{"NVRM: Xid (P[4711]: segfault at 7f797fe00000 ip 00007f7c7ac69996 sp 00007f7c12fd7c30 error 4 in libnccl.so.2", ""},
		{"overlay: Unknown parameter 'x\nNVRM: Xid (PCI:0000:91:00): 79, pid=1'", ""},
		{"a[1]: NVRM: Xid (PCI:0000:91:00): 79", ""},
		// Off the bus without an Xid.
		{"NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.", off},
		{"NVRM: GPU 0000:91:00.0: GPU serial number is 1650422011111.", ""},
		{"NVRM: The NVIDIA GPU 0000:91:00.0 (PCI ID: 10de:26b5) installed in this system has fallen off the bus and is not responding to commands.", off},
		{"NVRM: The NVIDIA GPU 0000:91:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system has\nNVRM: fallen off the bus and is not responding to commands.", off},
		{"NVRM: The NVIDIA GPU 0000:91:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system is not supported by open nvidia.ko", ""},
		{"NVRM: fallen off the bus and is not responding to commands.", ""},
		// Neuron.
		{"NEURON_HW_ERR=SRAM_UNCORRECTABLE_ERROR instance-id=i-0592464924bd45322 hostname=ip-172-31-61-252 nd-id=0 nc-id=0 serial-num=19fcda00f5ff6eb9 action=TERMINATE_INSTANCE", "neuron.hw_error bad neuron/0 replace"},
		{"2026-11-24T10:00:00.123456Z NEURON_HW_ERR=DMA_ERROR nd-id=11 action=TERMINATE_INSTANCE", "neuron.hw_error bad neuron/11 replace"},
		{"kernel: NEURON_HW_ERR=HBM_UNCORRECTABLE_ERROR affecting neuron devices", "neuron.hw_error bad neuron"},
		{"NEURON_HW_ERR=NC_UNCORRECTABLE_ERROR nd-id=3 action=REBOOT_INSTANCE", "neuron.hw_error bad neuron/3 reboot"},
		{"NEURON_HW_ERR=NC_UNCORRECTABLE_ERROR nd-id=3 action=SING", "neuron.hw_error bad neuron/3 investigate"},
		{"NEURON_HW_ERR=SOMETHING_NEW nd-id=3", "neuron.hw_error bad neuron/3 investigate"},
		{"NEURON_HW_ERR=SOMETHING_NEW nd-id=3 action=TERMINATE_INSTANCE", "neuron.hw_error bad neuron/3 replace"},
		{"NEURON_HW_ERR=HANG_ON_COLLECTIVES nd-id=3 action=TERMINATE_INSTANCE", "neuron.hw_error bad neuron/3 investigate warning"},
		{"NEURON_HW_ERR=DMA_ERROR nd-id=-1", "neuron.hw_error bad neuron"},
		{"NEURON_HW_ERR= DMA_ERROR", ""},
		{"NEURON_HW_ERR=dma_error nd-id=1", ""},
		{"NEURON_HW_ERR=X[4711]: segfault at 7f797fe00000 ip 00007f7c7ac69996", ""},
		{"overlay: Unknown parameter 'a NEURON_HW_ERR=DMA_ERROR action=TERMINATE_INSTANCE '", ""},
		// EFA.
		{"efa 0000:a0:1a.0 rdmap160s26: The device didn't send any completion for admin cmd CREATE_AH(5) status 0 (id: 12, wait: 60000000us)", efa},
		{"efa 0000:a0:1a.0: The device didn't send any completion for admin cmd GET_FEATURE(8) status 0 (ctx 0x00000000a9b3f3d2, sq producer: 1)", efa},
		{"efa 0000:a0:1a.0: Wait for completion (polling) timeout", efa},
		{"efa 0000:a0:1a.0 rdmap160s26: Admin queue is closed", efa},
		{"efa 0000:a0:1a.0: Reset indication didn't turn on", efa},
		{"efa 0000:a0:1a.0: Reset indication didn't turn off", efa},
		{"efa 0000:a0:1a.0: Device isn't ready, abort com init 0x0", efa},
		{"efa 0000:a0:1a.0: Reading register timed out. expected: req id[1] offset[0]. actual: req id[0] offset[0]", efa},
		{"efa 0000:a0:1a.0 rdmap160s26: Failed to process command DEREG_MR (opcode 8) comp_status 7 err -22", ""},
		{"efa 0000:4f:00.0: enabling device (0000 -> 0002)", ""},
		{"efa 0000:4f:00.0: Setup irq:1861 name:efa-mgmnt@pci:0000:4f:00.0", ""},
		{"efa zz: Admin queue is closed", ""},
		// Lustre.
		{"Lustre: zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: Connection to zmuqnb4v-OST0002 (at 10.0.2.15@tcp) was lost; in progress operations using this service will wait for recovery to complete", ost},
		{"LustreError: zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: Connection to zmuqnb4v-OST0002 (at 10.0.2.15@tcp) was lost; in progress operations using this service will fail", ost},
		{"LustreError: 167-0: zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: This client was evicted by zmuqnb4v-OST0002; in progress operations using this service will fail.", ost},
		{"LustreError: 11-0: zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: operation obd_ping to node 172.31.126.88@o2ib failed: rc = -107", ""},
		{"Lustre: 2318:0:(import.c:1411:ptlrpc_connect_interpret()) zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: Evicted from zmuqnb4v-OST0002 (at 10.0.2.15@tcp) after server handle changed from 0x1 to 0x2", ost},
		{"Lustre: zmuqnb4v-OST0002-osc-ffff9d0c5d3a8000: Connection restored to zmuqnb4v-OST0002 (at 10.0.2.15@tcp)", "lustre.connection ok lustre/zmuqnb4v-OST0002 port=zmuqnb4v-OST0002 kernel"},
		{"Lustre: MGC10.0.2.4@tcp: Connection to MGS (at 10.0.2.4@tcp) was lost; in progress operations using this service will fail", "lustre.connection bad lustre/MGC10.0.2.4@tcp port=MGC10.0.2.4@tcp"},
		{"Lustre: Mounted zmuqnb4v-client", ""},
		{"Lustre: Skipped 3 previous similar messages", ""},
		{"LustreError: 15c-8: MGC172.31.84.120@tcp: Confguration from log jxlwlxxv-client failed from MGS -5.", ""},
		// Read-only.
		{"EXT4-fs (md0): Remounting filesystem read-only", ro},
		{"EXT3-fs (md0): error: remounting filesystem read-only", ro},
		{"FAT-fs (md0): Filesystem has been set read-only", ro},
		{"BTRFS info (device md0 state E): forced readonly", ro},
		{"EXT4-fs (loop3): Remounting filesystem read-only", "host.disk.read_only bad disk/loop3 port=loop3 investigate warning"},
		{"EXT4-fs (md0): re-mounted 3f1c0e5e-0000-4000-8000-00000000000a ro. Quota mode: none.", ""},
		{"EXT4-fs (md0): mounted filesystem read-only", ""},
		{"overlay (md0): Remounting filesystem read-only", ""},
		{"x[1]: EXT4-fs (md0): Remounting filesystem read-only", ""},
		// Nothing.
		{"", ""},
		{"systemd[1]: Started Session 1 of user only", ""},
	} {
		r := Record{Sequence: 7, Message: []byte(tc.message)}
		var got []string
		for _, o := range NewMatcher().Match(&r, logged) {
			got = append(got, said(o))
			want := fault.Evidence{Authority: fault.ByKernel, Sequence: 7, Text: tc.message}
			if diff := cmp.Diff(want, o.Evidence); diff != "" {
				t.Errorf("Match(%q): evidence differs (-want +got):\n%s", tc.message, diff)
			}
			if o.Source != SourceName || !o.Time.Equal(logged) {
				t.Errorf("Match(%q): source %s at %s, want %s at %s", tc.message, o.Source, o.Time, SourceName, logged)
			}
		}
		if got := strings.Join(got, "; "); got != tc.want {
			t.Errorf("Match(%q) = %q, want %q", tc.message, got, tc.want)
		}
	}
}

func TestMatchUserFacilityIsNobodysWord(t *testing.T) {
	m := NewMatcher()
	m.Match(&Record{Facility: 1, Message: []byte("NVRM: GPU at PCI:0000:91:00: GPU-forged")}, logged)
	got := m.Match(&Record{Facility: 1, Message: []byte("NVRM: Xid (PCI:0000:91:00): 79")}, logged)
	if len(got) != 1 || got[0].Evidence.Authority != fault.ByNobody || got[0].Subject.UUID != "" {
		t.Errorf("Match of a record of user facility = %+v, want one observation that nobody vouches for, without UUID", got)
	}
	if x := m.Xids(); len(x) != 0 {
		t.Errorf("Xids() = %v, want none of user facility", x)
	}
}

func TestMatchLearnsUUID(t *testing.T) {
	m := NewMatcher()
	m.Match(&Record{Message: []byte("NVRM: GPU at PCI:0000:91:00: GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b")}, logged)
	for address, want := range map[string]string{"0000:91:00": "GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b", "0000:91:01": ""} {
		got := m.Match(&Record{Message: []byte("NVRM: Xid (PCI:" + address + "): 79")}, logged)
		if len(got) != 1 || got[0].Subject.UUID != want {
			t.Errorf("Match(Xid of %s) = %+v, want UUID %q", address, got, want)
		}
	}
}

func TestMatchThreeRecords(t *testing.T) {
	lines := []string{
		"NVRM: The NVIDIA GPU 0000:b3:00.0",
		"NVRM: (PCI ID: 10de:26b5) installed in this system has",
		"NVRM: fallen off the bus and is not responding to commands.",
	}
	for _, tc := range []struct {
		name     string
		last     time.Duration
		facility uint32 // of the last record
		want     int
	}{
		{"together", 20 * time.Microsecond, 0, 1},
		{"within the window", time.Second, 0, 1},
		{"after the window", time.Second + time.Microsecond, 0, 0},
		{"ended by a user", 20 * time.Microsecond, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := NewMatcher()
			m.Match(&Record{Message: []byte(lines[0])}, logged)
			m.Match(&Record{Message: []byte("usb 1-1: new device")}, logged)
			m.Match(&Record{Message: []byte(lines[1])}, logged)
			got := m.Match(&Record{Uptime: tc.last, Facility: tc.facility, Message: []byte(lines[2])}, logged)
			if len(got) != tc.want {
				t.Fatalf("Match(third line) = %+v, want %d observations", got, tc.want)
			}
			if tc.want == 1 && (said(got[0]) != "nvidia.xid.79 bad gpu/0000:b3:00" || got[0].Evidence.Text != lines[0]+"\n"+lines[2]) {
				t.Errorf("Match(third line) = %s: %q", said(got[0]), got[0].Evidence.Text)
			}
		})
	}
}

func TestXidsCountsEveryCode(t *testing.T) {
	m := NewMatcher()
	for _, message := range []string{
		"NVRM: Xid (PCI:0000:91:00): 79",
		"NVRM: Xid (PCI:0000:91:00): 173, something of a newer driver",
		"NVRM: Xid (PCI:0000:91:00): 173",
		"NVRM: Xid (PCI:0000:91:00): 79x",
		"nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 24007, Fatal, Link 28 sourcetrack timeout error (First)",
		"nvidia-nvswitch0: SXid (PCI:0004:00:00.0): 26006, SOE HALT data[0] = 0x               0",
		"nvidia-nvswitch0: open (major=510)",
	} {
		m.Match(&Record{Message: []byte(message)}, logged)
	}
	want := []XidCount{
		{"xid", "other", "", 1},
		{"xid", "79", fault.XidOffTheBus, 1},
		{"xid", "173", "", 2},
		{"sxid", "24007", "", 1},
		{"sxid", "26006", "", 1},
	}
	if diff := cmp.Diff(want, m.Xids()); diff != "" {
		t.Errorf("Xids() differs (-want +got):\n%s", diff)
	}
	for code := range 2 * maxXidCodes {
		m.Match(&Record{Message: fmt.Appendf(nil, "NVRM: Xid (PCI:0000:91:00): %d", 1000+code)}, logged)
	}
	if n := len(m.Xids()); n > maxXidCodes+1 {
		t.Errorf("Xids() has %d codes, want at most %d", n, maxXidCodes+1)
	}
}

func FuzzMatch(f *testing.F) {
	for _, message := range []string{
		"NVRM: Xid (PCI:0000:91:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
		"NVRM: The NVIDIA GPU 0000:91:00.0\nNVRM: fallen off the bus",
		"NVRM: GPU at PCI:0000:91:00: GPU-b6c3b2be", "NEURON_HW_ERR=DMA_ERROR nd-id=1 action=X",
		"efa 0000:a0:1a.0: Admin queue is closed", "Lustre: 11-0: a-osc-b: Connection restored to x",
		"EXT4-fs (md0): Remounting filesystem read-only", "nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 24007",
	} {
		f.Add(message, uint32(0))
		f.Add(message, uint32(1))
	}
	m := NewMatcher()
	f.Fuzz(func(t *testing.T, message string, facility uint32) {
		for _, o := range m.Match(&Record{Facility: facility, Message: []byte(message)}, logged) {
			if (o.Evidence.Authority == fault.ByKernel) != (facility == 0) {
				t.Errorf("Match(%q) of facility %d has authority %q", message, facility, o.Evidence.Authority)
			}
			if !utf8.ValidString(o.Evidence.Text) || !utf8.ValidString(o.Subject.Port) || len(o.Subject.Port) > maxName {
				t.Errorf("Match(%q) = %+v", message, o)
			}
		}
		if len(m.gpus) > maxGPUs || len(m.xids) > maxXidCodes+2 {
			t.Errorf("the matcher grew to %d GPUs and %d codes", len(m.gpus), len(m.xids))
		}
	})
}

// BenchmarkUnmatchedLine is what the kernel log costs: nearly every line is about
// nothing that is looked for.
func BenchmarkUnmatchedLine(b *testing.B) {
	raw := []byte("6,3964,206764307,-,caller=T4711;systemd-journald[512]: Data hash table of /run/log/journal/2f9b/system.journal has a fill level at 75.0\n")
	m := NewMatcher()
	b.ReportAllocs()
	for b.Loop() {
		r, err := ParseRecord(raw)
		if err != nil || m.Match(&r, logged) != nil {
			b.Fatal("the line matched")
		}
	}
}

func BenchmarkXidLine(b *testing.B) {
	raw := []byte("4,812,6781741548779,-;NVRM: Xid (PCI:0000:91:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n")
	m := NewMatcher()
	b.ReportAllocs()
	for b.Loop() {
		r, err := ParseRecord(raw)
		if err != nil || m.Match(&r, logged) == nil {
			b.Fatal("the line did not match")
		}
	}
}
