package health

import "github.com/evenkeel/evenkeel/internal/fault"

// maxDevices bounds the inventory; no node has that many.
const maxDevices = 256

// inventory knows which names belong to one device. The kernel knows a GPU by
// its PCI address, the driver by UUID, PCI address and index.
type inventory struct {
	byPCI  map[deviceName]fault.Subject
	byUUID map[deviceName]string // PCI address
}

type deviceName struct {
	device fault.DeviceKind
	name   string
}

func newInventory() inventory {
	return inventory{byPCI: make(map[deviceName]fault.Subject), byUUID: make(map[deviceName]string)}
}

// learn takes the names that one subject has, and reports whether any is new.
func (v *inventory) learn(s fault.Subject) bool {
	if s.PCI == "" || s.UUID == "" && s.Index == nil {
		return false
	}
	at := deviceName{s.Device, s.PCI}
	known, ok := v.byPCI[at]
	if !ok && len(v.byPCI) >= maxDevices {
		return false
	}
	news := s.UUID != "" && s.UUID != known.UUID || s.Index != nil && (known.Index == nil || *known.Index != *s.Index)
	if !news {
		return false
	}
	if s.UUID != "" && s.UUID != known.UUID {
		delete(v.byUUID, deviceName{s.Device, known.UUID})
		known.UUID = s.UUID
		v.byUUID[deviceName{s.Device, s.UUID}] = s.PCI
	}
	if s.Index != nil {
		known.Index = s.Index
	}
	v.byPCI[at] = known
	return true
}

// enrich fills in the names that s lacks, and reports whether it did.
func (v *inventory) enrich(s *fault.Subject) (enriched bool) {
	if s.PCI == "" && s.UUID != "" {
		if pci, ok := v.byUUID[deviceName{s.Device, s.UUID}]; ok {
			s.PCI = pci
			enriched = true
		}
	}
	known, ok := v.byPCI[deviceName{s.Device, s.PCI}]
	if !ok || s.PCI == "" {
		return enriched
	}
	if s.UUID == "" && known.UUID != "" {
		s.UUID = known.UUID
		enriched = true
	}
	if s.Index == nil && known.Index != nil {
		s.Index = known.Index
		enriched = true
	}
	return enriched
}
