//! What a JobMaster and a TaskManager say to each other: plain data, which knows neither threads nor
//! sockets.
