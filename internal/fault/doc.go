// Package fault is the vocabulary that every part of Evenkeel shares: what can
// be wrong (the [Catalogue] of kinds), with what (a [Subject]), how sure we are
// and why (a [Finding] and its [Evidence]), and how a node tells the fleet
// about it (a [NodeReport]).
//
// The package decides the order of reports, the identity of findings and
// subjects, and which evidence may authorise an action. It refuses reports that
// are malformed, that name another node, or that are too large to be honest. It
// reads no file, no clock and no socket.
package fault
