"""Where bytes lie: files of this machine, objects of servers, stores of other libraries; requests and their faults."""
