package kernel

import (
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// matchReadOnly reads the messages with which file systems say that they gave up
// writing: "EXT4-fs (md0): Remounting filesystem read-only" and its likes. A mount
// that was asked to become read-only ("re-mounted … ro") is none.
func matchReadOnly(m *Matcher, e *entry) {
	who, text, ok := strings.Cut(e.text, "): ")
	system, device, found := strings.Cut(who, " (")
	if !ok || !found {
		return
	}
	text = strings.ToLower(text)
	switch {
	case isFileSystem(system) && (text == "remounting filesystem read-only" ||
		text == "error: remounting filesystem read-only" || text == "filesystem has been set read-only"):
	case strings.HasPrefix(system, "BTRFS ") && text == "forced readonly":
		device, _, _ = strings.Cut(strings.TrimPrefix(device, "device "), " ") // "device nvme1n1 state E"
	default:
		return
	}
	if device == "" || len(device) > maxName || strings.ContainsAny(device, " ()\n") {
		return
	}
	o := e.say(fault.DiskReadOnly, fault.Bad, fault.Subject{Device: fault.DeviceDisk, Port: device})
	if strings.HasPrefix(device, "loop") { // an image file, not the node's disk
		o.Action, o.Severity = fault.Investigate, fault.Warning
	}
}

// isFileSystem reports whether s is how a file system's driver names itself, "EXT4-fs".
func isFileSystem(s string) bool {
	name, ok := strings.CutSuffix(s, "-fs")
	return ok && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}
