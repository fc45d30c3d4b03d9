// Package simdevice reads a JSON file that stands in for the accelerators of a
// node: their readings, their faults, and the processes that compute on them.
//
// It decides what a reading says about a GPU's health, with the same questions
// that a real driver is asked: does the call return, are all GPUs there, are
// links up, is the temperature below the slowdown threshold that the device
// itself names. It refuses to guess: a value that the file does not give is
// neither healthy nor bad, a file that does not parse is coverage unknown, and
// nothing of an earlier reading is reported as current. All that it says is
// marked as simulated.
package simdevice
