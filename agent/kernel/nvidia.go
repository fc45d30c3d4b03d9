package kernel

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// xidKinds says which Xid is evidence of which kind of fault.
var xidKinds = map[int]fault.Kind{
	31: fault.XidMMUFault,
	48: fault.XidDoubleBitECC,
	74: fault.XidNVLink,
	79: fault.XidOffTheBus,
}

const (
	maxXid      = 99999 // above every Xid and SXid of any driver
	maxXidCodes = 256   // distinct codes that are counted
	maxGPUs     = 256
	// lostGPUWindow is how long the lines of one printk can be apart.
	lostGPUWindow = time.Second
)

// xidCode is what Xids are counted by. Code is -1 for those that do not parse and
// for those above the bounds.
type xidCode struct {
	nvswitch bool
	code     int
}

// lostGPU is the first line of the three in which the driver says, without an
// Xid, that a GPU fell off the bus when it was loaded.
type lostGPU struct {
	pci    string
	uptime time.Duration
	text   string
}

// matchNVRM reads the messages of the NVIDIA driver. Only those may carry further
// lines: in another one's message a newline may be a user's.
func matchNVRM(m *Matcher, e *entry) {
	for line := range strings.SplitSeq(e.text, "\n") {
		rest, ok := strings.CutPrefix(line, "NVRM: ")
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(rest, "Xid ("):
			m.matchXid(e, rest)
		case strings.HasPrefix(rest, "GPU at "):
			m.learnGPU(&e.record, rest)
		case strings.HasPrefix(rest, "GPU "):
			m.matchFallen(e, rest)
		case strings.HasPrefix(rest, "The NVIDIA GPU "):
			m.beginLost(e, rest)
		case strings.HasPrefix(rest, "fallen off the bus"):
			m.endLost(e)
		}
	}
}

// matchXid reads "Xid (PCI:dddd:bb:dd[.f][ GPU-I:ii…]): CODE[, TEXT]", with or
// without "PCI:".
func (m *Matcher) matchXid(e *entry, text string) {
	pci, code, detail, ok := parseXid(text, "Xid (")
	if !ok {
		m.count(&e.record, xidCode{code: -1})
		return
	}
	m.count(&e.record, xidCode{code: code})
	kind, known := xidKinds[code]
	if !known {
		return
	}
	s := m.gpu(pci)
	if kind == fault.XidNVLink {
		s.Port = linkNumber(detail)
	}
	e.say(kind, fault.Bad, s)
}

// parseXid reads what Xids of GPUs and SXids of switches have in common.
func parseXid(text, prefix string) (pci string, code int, detail string, ok bool) {
	text, ok = strings.CutPrefix(text, prefix)
	if !ok {
		return "", 0, "", false
	}
	device, rest, ok := strings.Cut(text, ")")
	if !ok {
		return "", 0, "", false
	}
	address, _, _ := strings.Cut(device, " ") // a MIG instance may follow
	if pci, ok = fault.NormalizePCI(address); !ok {
		return "", 0, "", false
	}
	rest = strings.TrimLeft(strings.TrimPrefix(rest, ":"), " ")
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	code, err := strconv.Atoi(rest[:end])
	if err != nil || code > maxXid {
		return "", 0, "", false
	}
	detail = rest[end:]
	if detail != "" && detail[0] != ',' && detail[0] != ' ' && detail[0] != '.' && detail[0] != '\r' {
		return "", 0, "", false
	}
	return pci, code, detail, true
}

// linkNumber gives "14" of "… detected on link 14(0x0, …"; empty for none.
func linkNumber(detail string) string {
	_, after, ok := strings.Cut(strings.ToLower(detail), "link ")
	end := 0
	for ok && end < len(after) && end < 3 && after[end] >= '0' && after[end] <= '9' {
		end++
	}
	return after[:end]
}

// learnGPU reads "GPU at PCI:dddd:bb:dd: GPU-<uuid>", which the driver logs once
// before a GPU's first Xid.
func (m *Matcher) learnGPU(r *Record, text string) {
	address, uuid, ok := strings.Cut(strings.TrimPrefix(text, "GPU at "), ": GPU-")
	pci, valid := fault.NormalizePCI(address)
	uuid, _, _ = strings.Cut(uuid, " ")
	if !ok || !valid || !r.FromKernel() || len(uuid) > 64 || uuid == "" {
		return
	}
	if _, known := m.gpus[pci]; known || len(m.gpus) < maxGPUs {
		m.gpus[pci] = "GPU-" + uuid
	}
}

// matchFallen reads "GPU dddd:bb:dd.f: GPU has fallen off the bus."
func (m *Matcher) matchFallen(e *entry, text string) {
	address, what, ok := strings.Cut(strings.TrimPrefix(text, "GPU "), ": ")
	pci, valid := fault.NormalizePCI(address)
	if ok && valid && strings.HasPrefix(what, "GPU has fallen off the bus") {
		e.say(fault.XidOffTheBus, fault.Bad, m.gpu(pci))
	}
}

// beginLost reads "The NVIDIA GPU dddd:bb:dd.f", the first of three lines:
//
//	NVRM: The NVIDIA GPU 0000:b3:00.0
//	NVRM: (PCI ID: 10de:26b5) installed in this system has
//	NVRM: fallen off the bus and is not responding to commands.
func (m *Matcher) beginLost(e *entry, text string) {
	address, rest, _ := strings.Cut(strings.TrimPrefix(text, "The NVIDIA GPU "), " ")
	pci, ok := fault.NormalizePCI(address)
	if !ok {
		return
	}
	if strings.Contains(rest, "fallen off the bus") { // all in one line
		e.say(fault.XidOffTheBus, fault.Bad, m.gpu(pci))
		return
	}
	m.pending[e.record.FromKernel()] = lostGPU{pci: pci, uptime: e.record.Uptime, text: e.text}
}

// endLost is the third line. The device it speaks of stands in the first.
func (m *Matcher) endLost(e *entry) {
	lost, ok := m.pending[e.record.FromKernel()]
	if !ok || (e.record.Uptime-lost.uptime).Abs() > lostGPUWindow {
		return
	}
	delete(m.pending, e.record.FromKernel())
	o := e.say(fault.XidOffTheBus, fault.Bad, m.gpu(lost.pci))
	if lost.text != e.text {
		o.Evidence.Text = lost.text + "\n" + e.text
	}
}

// countSXid counts the errors of NVSwitches: "nvidia-nvswitch0: SXid (PCI:…): CODE, …".
func countSXid(m *Matcher, e *entry) {
	_, rest, _ := strings.Cut(e.text, ": ")
	if !strings.HasPrefix(rest, "SXid (") {
		return
	}
	if _, code, _, ok := parseXid(rest, "SXid ("); ok {
		m.count(&e.record, xidCode{nvswitch: true, code: code})
		return
	}
	m.count(&e.record, xidCode{nvswitch: true, code: -1})
}

func (m *Matcher) gpu(pci string) fault.Subject {
	return fault.Subject{Device: fault.DeviceGPU, PCI: pci, UUID: m.gpus[pci]}
}

// count counts what the kernel itself logged.
func (m *Matcher) count(r *Record, c xidCode) {
	if !r.FromKernel() {
		return
	}
	if _, known := m.xids[c]; !known && len(m.xids) >= maxXidCodes {
		c.code = -1
	}
	m.xids[c]++
}

// XidCount is how often one Xid or SXid was logged.
type XidCount struct {
	// Type is "xid" or "sxid".
	Type string
	// Code is the number, "other" for what does not parse.
	Code string
	// Kind is the fault that it is evidence of; empty for none that is known.
	Kind  fault.Kind
	Count uint64
}

// Xids gives the counts of every code seen, ordered by type and code.
func (m *Matcher) Xids() []XidCount {
	codes := make([]xidCode, 0, len(m.xids))
	for c := range m.xids {
		codes = append(codes, c)
	}
	slices.SortFunc(codes, func(a, b xidCode) int {
		if a.nvswitch != b.nvswitch {
			if b.nvswitch {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.code, b.code)
	})
	counts := make([]XidCount, len(codes))
	for i, c := range codes {
		counts[i] = XidCount{Type: "xid", Code: "other", Kind: xidKinds[c.code], Count: m.xids[c]}
		if c.nvswitch {
			counts[i].Type, counts[i].Kind = "sxid", ""
		}
		if c.code >= 0 {
			counts[i].Code = strconv.Itoa(c.code)
		}
	}
	return counts
}
