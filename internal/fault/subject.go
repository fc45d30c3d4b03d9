package fault

import (
	"cmp"
	"fmt"
	"strings"
)

// DeviceKind names the class of thing inside a node that a finding is about.
// The empty kind means the node as a whole.
type DeviceKind string

// The device kinds that the catalogue speaks about.
const (
	DeviceNode     DeviceKind = ""
	DeviceGPU      DeviceKind = "gpu"
	DeviceNVSwitch DeviceKind = "nvswitch"
	DeviceNeuron   DeviceKind = "neuron"
	DeviceEFA      DeviceKind = "efa"
	DeviceLustre   DeviceKind = "lustre"
	DeviceDisk     DeviceKind = "disk"
	DeviceAgent    DeviceKind = "agent"
)

// Subject is the thing that a finding is about: a node, and inside it perhaps a
// device and a port or link of that device.
type Subject struct {
	Node       string     `json:"node"`
	InstanceID string     `json:"instance_id,omitempty"`
	Device     DeviceKind `json:"device,omitempty"`
	UUID       string     `json:"uuid,omitempty"`
	// PCI is the address without function, "0000:53:00", as [NormalizePCI] gives it.
	PCI string `json:"pci,omitempty"`
	// Index is the device's number on its node; nil where the source does not know it.
	Index *int `json:"index,omitempty"`
	// Port is the port or link of the device ("12"), or the name of a mount or
	// block device where the device has no number.
	Port string `json:"port,omitempty"`
}

// Key identifies the subject inside its node, however a source came to name it:
// the kernel knows a GPU by PCI address, NVML by UUID and PCI address, so the
// PCI address is preferred, then the UUID, then the index. The instance id and
// the port are not part of it: several links of one GPU are one sick GPU.
func (s Subject) Key() string {
	kind := cmp.Or(string(s.Device), "node")
	switch {
	case s.Device == DeviceNode:
		return kind
	case s.PCI != "":
		return kind + "/" + s.PCI
	case s.UUID != "":
		return kind + "/" + s.UUID
	case s.Index != nil:
		return fmt.Sprintf("%s/%d", kind, *s.Index)
	case s.Port != "":
		return kind + "/" + s.Port
	}
	return kind
}

// String is how the subject is shown to a person.
func (s Subject) String() string {
	if s.Device == DeviceNode {
		return s.Node
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Node, s.Device)
	if s.Index != nil {
		fmt.Fprintf(&b, " %d", *s.Index)
	}
	if s.PCI != "" {
		fmt.Fprintf(&b, " (%s)", s.PCI)
	}
	switch {
	case s.Port == "":
	case s.Device == DeviceGPU || s.Device == DeviceNVSwitch:
		fmt.Fprintf(&b, " link %s", s.Port)
	default:
		fmt.Fprintf(&b, " %s", s.Port)
	}
	return b.String()
}

// NormalizePCI turns the spellings of a PCI address in use (the driver's
// "0000:53:00", NVML's "00000000:53:00.0", sysfs's "0000:53:00.0", with or
// without a leading "PCI:") into the lower-case form without function, domain
// padded to four digits. It returns false for anything else.
func NormalizePCI(s string) (string, bool) {
	s = strings.ToLower(strings.TrimPrefix(s, "PCI:"))
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		if len(s)-i != 2 || s[i+1] < '0' || s[i+1] > '7' {
			return "", false
		}
		s = s[:i]
	}
	parts := strings.Split(s, ":")
	if len(parts) == 2 { // bus:device, domain 0
		parts = append([]string{"0000"}, parts...)
	}
	if len(parts) != 3 || len(parts[1]) != 2 || len(parts[2]) != 2 {
		return "", false
	}
	domain := parts[0]
	if len(domain) > 8 {
		return "", false
	}
	if len(domain) > 4 {
		domain = strings.TrimLeft(domain[:len(domain)-4], "0") + domain[len(domain)-4:]
	}
	if len(domain) < 4 || !isHex(domain+parts[1]+parts[2]) {
		return "", false
	}
	return domain + ":" + parts[1] + ":" + parts[2], true
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
