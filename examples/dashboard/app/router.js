// A router as single-page dashboards have one: it shows one view, and changes the address.
// A view that shows a secret for the only time is not left without a question.
(() => {
	'use strict'
	const view = document.getElementById('view')
	let shown = '' // the path of the view
	let once = false // a secret is shown for the only time

	const views = {
		'/app': () => {
			const keys = document.createElement('apikey-page')
			keys.setAttribute('src', '/settings/keys')
			keys.addEventListener('apikey-secret-open', (e) => { once = e.detail.once })
			keys.addEventListener('apikey-secret-closed', () => { once = false })
			return keys
		},
		'/app/orders': () => {
			const heading = document.createElement('h1')
			heading.textContent = 'Orders'
			return heading
		},
	}

	const leaves = () => !once || confirm('The secret key is shown only now. Leave it?')
	const show = (path) => {
		shown = path
		view.replaceChildren((views[path] ?? views['/app'])())
	}
	document.querySelector('nav').addEventListener('click', (e) => {
		const path = e.target.closest('a')?.getAttribute('href')
		if (!path) return
		e.preventDefault()
		if (path === shown || !leaves()) return
		history.pushState(null, '', path)
		show(path)
	})
	addEventListener('popstate', () => {
		if (location.pathname === shown) return
		if (leaves()) show(location.pathname)
		else history.pushState(null, '', shown)
	})
	show(location.pathname)
})()
