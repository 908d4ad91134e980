// Package model is the settable part of module decaf-loss as Go structs, which
// ygot generates from decaf-loss.yang: their Unmarshal and Validate hold what a
// client set against the module's types, ranges and patterns.
//
// What lives here: generated code alone. What does not: state and events, which
// package yang writes by hand because each is one notification.
package model

//go:generate sh generate.sh
