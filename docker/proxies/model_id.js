// Which model id a request names. nginx hashes it to choose a server.
function route(r) {
    let id;
    try {
        id = JSON.parse(r.requestText).model;
    } catch (error) {
        // A server says what is wrong with it.
    }
    r.variables.model_id = typeof id === 'string' ? id : r.variables.request_id;
    r.internalRedirect('@by_model');
}

export default { route };
